pub(crate) mod ddl;
pub(crate) mod decode;
pub(crate) mod event;
pub(crate) mod machine;
