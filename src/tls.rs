//! How a connection is secured.

/// Whether a connection is encrypted, and whether the server has to prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tls {
    /// No encryption. In a URI: `false`.
    Off,
    /// Encrypted if the server offers it, without proof of who the server is: safe from those who listen, not from those who interfere.
    /// In a URI: `preferred`.
    Preferred,
    /// Encrypted, and the certificate has to be valid for the host name. In a URI: `true` or `verify`.
    Verify,
    /// Encrypted, without proof of who the server is. In a URI: `skip-verify`.
    DangerSkipVerify,
}

impl Tls {
    /// Reads a URI's spelling.
    pub(crate) fn from_parameter(value: &str) -> Option<Self> {
        match value {
            "true" | "verify" => Some(Self::Verify),
            "skip-verify" => Some(Self::DangerSkipVerify),
            "preferred" => Some(Self::Preferred),
            "false" => Some(Self::Off),
            _ => None,
        }
    }
}
