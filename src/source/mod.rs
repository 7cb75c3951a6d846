//! Where data comes from.

#[cfg(any(feature = "vstream", feature = "_fuzzing", test))]
pub(crate) mod vstream;
