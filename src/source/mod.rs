pub(crate) mod vstream;
