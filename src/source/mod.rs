//! Where data comes from.

#[cfg(feature = "vstream")]
mod vstream;
