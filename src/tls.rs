//! One set-up of rustls for both connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::{Error, ErrorKind, Result};

/// Whether a connection is encrypted, and how the server has to prove who it is.
///
/// There is no mode that tries TLS and silently falls back where it was asked for: only [`Tls::Preferred`] may end up in plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Tls {
    /// Plain text.
    #[default]
    Off,
    /// TLS if the server offers it, without a check of its certificate; otherwise plain text. Only MySQL's protocol can ask, so vtgate's gRPC
    /// port refuses this mode. It protects against readers, not against a server that lies about who it is.
    Preferred,
    /// TLS, with a certificate that a trusted issuer signed for the host's name. Trusted are the system's roots, or those of a CA file alone
    /// where one is given.
    Verify,
    /// TLS, with a certificate that a trusted issuer signed, for whatever host. Only PostgreSQL has it: `sslmode=verify-ca`.
    VerifyIssuer,
    /// TLS with whatever certificate the server shows: anyone between the two ends can read and change everything.
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

/// What the parameters are called that concern TLS.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
}

impl Names {
    /// Those of MySQL and of gRPC.
    pub(crate) const TLS: &'static Self = &Self { ca: "tls_ca", cert: "tls_cert", key: "tls_key" };
    /// Those of PostgreSQL.
    pub(crate) const SSL: &'static Self = &Self { ca: "sslrootcert", cert: "sslcert", key: "sslkey" };
}

/// PEM files: whom to trust, and who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TlsFiles {
    /// Parameter `tls_ca`: trusted instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// Parameter `tls_cert`: our certificate and the chain that follows it.
    pub cert: Option<PathBuf>,
    /// Parameter `tls_key`: our private key (PKCS#8, PKCS#1 or SEC1).
    pub key: Option<PathBuf>,
}

/// The configuration for a mode, or `None` for plain text. `alpn` lists the protocols to offer, `h2` for gRPC.
pub(crate) fn client_config(tls: Tls, files: &TlsFiles, alpn: &[&[u8]], names: &Names) -> Result<Option<Arc<ClientConfig>>> {
    if tls == Tls::Off {
        return Ok(None);
    }
    // The provider is passed explicitly: a process-wide default belongs to the program, not to a library inside it.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Tls, "TLS cannot be set up").with_cause(error))?
        .dangerous();
    let builder = match tls {
        Tls::Verify | Tls::VerifyIssuer => {
            let roots = Arc::new(roots(files.ca.as_deref(), names)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| Error::new(ErrorKind::Tls, "the verification of certificates cannot be set up").with_cause(error))?;
            if tls == Tls::Verify {
                builder.with_custom_certificate_verifier(verifier)
            } else {
                builder.with_custom_certificate_verifier(Arc::new(AnyName { verifier }))
            }
        }
        _ => builder.with_custom_certificate_verifier(Arc::new(AnyCertificate { provider })),
    };
    let mut config = match (&files.cert, &files.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(names.cert, cert)?;
            builder.with_client_auth_cert(chain, private_key(key, names)?).map_err(|error| {
                let sentence = match error {
                    rustls::Error::InconsistentKeys(_) => format!("`{}` is not the key of the certificate in `{}`", names.key, names.cert),
                    _ => format!("`{}` and `{}` cannot be used", names.cert, names.key),
                };
                Error::config(format!("{sentence} (files `{}` and `{}`)", cert.display(), key.display())).with_cause(error)
            })?
        }
        (Some(_), None) => return Err(unpaired(names.cert, names.key)),
        (None, Some(_)) => return Err(unpaired(names.key, names.cert)),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Some(Arc::new(config)))
}

fn unpaired(given: &str, missing: &str) -> Error {
    Error::config(format!("`{given}` is given without `{missing}`: a client certificate needs both"))
}

fn roots(ca: Option<&Path>, names: &Names) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates(names.ca, ca)? {
            roots.add(certificate).map_err(|error| {
                Error::config(format!("`{}` names `{}`, which holds a certificate that cannot be used", names.ca, ca.display()))
                    .with_cause(error)
            })?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    // Systems carry a few roots that rustls does not accept; the others serve.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let error = Error::config(format!("the system has no trusted root certificates: name a CA file with `{}`", names.ca));
        return Err(match found.errors.into_iter().next() {
            Some(cause) => error.with_cause(cause),
            None => error,
        });
    }
    Ok(roots)
}

fn read(parameter: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Error::config(format!("`{parameter}` names `{}`, which cannot be read", path.display())).with_cause(error))
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(parameter, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| {
        Error::config(format!("`{parameter}` names `{}`, which is not well-formed PEM", path.display())).with_cause(error)
    })?;
    if found.is_empty() {
        return Err(Error::config(format!("`{parameter}` names `{}`, which holds no certificate in PEM form", path.display())));
    }
    Ok(found)
}

fn private_key(path: &Path, names: &Names) -> Result<PrivateKeyDer<'static>> {
    let wrong = |what: &str| Error::config(format!("`{}` names `{}`, which {what}", names.key, path.display()));
    PrivateKeyDer::from_pem_slice(&read(names.key, path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => wrong("holds no unencrypted private key in PEM form"),
        // The cause is left out: it may quote a line of the file.
        _ => wrong("is not well-formed PEM"),
    })
}

/// Accepts the certificate of a trusted issuer for any host.
#[derive(Debug)]
struct AnyName {
    verifier: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Accepts every certificate. That the server owns the certificate's key is still checked, which costs nothing and finds broken servers.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Puts into a sentence why TLS with `server` (`host:port`) failed. `setting` is the parameter that chose TLS: `tls`, `grpc_tls` or `sslmode`.
pub(crate) fn explain(error: rustls::Error, server: &str, setting: &str, names: &Names) -> Error {
    use CertificateError as Certificate;
    let off = if setting == "sslmode" { "disable" } else { "false" };
    let (kind, sentence) = match &error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => (
            ErrorKind::Tls,
            format!("the certificate of `{server}` is from an issuer that is not trusted: name its CA file with `{}`", names.ca),
        ),
        rustls::Error::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) => {
            (ErrorKind::Tls, format!("the certificate of `{server}` is for another host name: connect under a name that it lists"))
        }
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            (ErrorKind::Tls, format!("the certificate of `{server}` has expired"))
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            (ErrorKind::Tls, format!("the certificate of `{server}` is not valid yet, or this machine's clock is slow"))
        }
        rustls::Error::InvalidCertificate(_) => (ErrorKind::Tls, format!("the certificate of `{server}` is not acceptable")),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            (ErrorKind::Auth, format!("`{server}` requires a client certificate: set `{}` and `{}`", names.cert, names.key))
        }
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => (
            ErrorKind::Auth,
            format!("`{server}` refused the client certificate, or requires one: check `{}` and `{}`", names.cert, names.key),
        ),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            (ErrorKind::Tls, format!("`{server}` speaks TLS but not HTTP/2: this is not a gRPC port"))
        }
        rustls::Error::AlertReceived(_) => (ErrorKind::Tls, format!("`{server}` ended the TLS handshake")),
        rustls::Error::InvalidMessage(_) => {
            (ErrorKind::Tls, format!("`{server}` does not answer TLS but plain text: set `{setting}={off}`, or use its TLS port"))
        }
        rustls::Error::PeerIncompatible(_) => {
            (ErrorKind::Tls, format!("`{server}` and this client share no version or cipher of TLS (1.2 and 1.3 are spoken here)"))
        }
        _ => (ErrorKind::Tls, format!("TLS with `{server}` failed")),
    };
    Error::new(kind, sentence).with_cause(error)
}

/// The same for a server that has answered before: but for certificates, what fails now is the connection, and another one may serve.
pub(crate) fn explain_broken(error: rustls::Error, server: &str, setting: &str, names: &Names) -> Error {
    let explained = explain(error.clone(), server, setting, names);
    if matches!(error, rustls::Error::InvalidCertificate(_)) || explained.kind() == ErrorKind::Auth {
        return explained;
    }
    Error::new(ErrorKind::Connect, format!("the TLS session with `{server}` broke")).with_cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_and_text(result: Result<Option<Arc<ClientConfig>>>) -> (ErrorKind, String) {
        let error = result.unwrap_err();
        (error.kind(), error.to_string())
    }

    #[test]
    fn plain_text_needs_no_configuration() {
        assert!(client_config(Tls::Off, &TlsFiles::default(), &[b"h2"], Names::TLS).unwrap().is_none());
    }

    #[test]
    fn skip_verify_offers_the_protocols_it_is_given() {
        let config = client_config(Tls::DangerSkipVerify, &TlsFiles::default(), &[b"h2"], Names::TLS).unwrap().unwrap();
        assert_eq!(config.alpn_protocols, [b"h2"]);
    }

    #[test]
    fn errors_of_files_name_the_parameter_and_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing\n").unwrap();
        let broken = folder.path().join("broken.pem");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n").unwrap();
        let absent = folder.path().join("absent.pem");

        for (path, sentence) in
            [(&empty, "holds no certificate in PEM form"), (&broken, "is not well-formed PEM"), (&absent, "cannot be read")]
        {
            let files = TlsFiles { ca: Some(path.clone()), ..TlsFiles::default() };
            let (kind, text) = kind_and_text(client_config(Tls::Verify, &files, &[], Names::TLS));
            assert_eq!(kind, ErrorKind::Config);
            assert_eq!(text, format!("`tls_ca` names `{}`, which {sentence}", path.display()));
        }
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let files = TlsFiles { cert: Some("c.pem".into()), ..TlsFiles::default() };
        let (_, text) = kind_and_text(client_config(Tls::DangerSkipVerify, &files, &[], Names::TLS));
        assert_eq!(text, "`tls_cert` is given without `tls_key`: a client certificate needs both");
        let files = TlsFiles { key: Some("k.pem".into()), ..TlsFiles::default() };
        let (_, text) = kind_and_text(client_config(Tls::DangerSkipVerify, &files, &[], Names::TLS));
        assert_eq!(text, "`tls_key` is given without `tls_cert`: a client certificate needs both");
    }

    #[test]
    fn each_failure_of_tls_has_its_own_sentence() {
        let errors = [
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
            rustls::Error::InvalidCertificate(CertificateError::NotValidForName),
            rustls::Error::InvalidCertificate(CertificateError::Expired),
            rustls::Error::InvalidCertificate(CertificateError::NotValidYet),
            rustls::Error::InvalidCertificate(CertificateError::Revoked),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
            rustls::Error::AlertReceived(AlertDescription::UnknownCA),
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
            rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            rustls::Error::DecryptError,
        ];
        let mut sentences: Vec<_> =
            errors.iter().map(|error| explain(error.clone(), "db:15991", "grpc_tls", Names::TLS).to_string()).collect();
        assert!(sentences.iter().all(|sentence| sentence.contains("`db:15991`")));
        sentences.sort();
        sentences.dedup();
        assert_eq!(sentences.len(), errors.len());
        let kinds = errors.map(|error| explain(error, "db:15991", "grpc_tls", Names::TLS).kind());
        assert_eq!(kinds.iter().filter(|kind| **kind == ErrorKind::Auth).count(), 2);
    }

    #[test]
    fn of_a_server_that_has_answered_only_certificates_fail_for_good() {
        let kind = |error| explain_broken(error, "db:15991", "grpc_tls", Names::TLS).kind();
        assert_eq!(kind(rustls::Error::InvalidCertificate(CertificateError::Expired)), ErrorKind::Tls);
        assert_eq!(kind(rustls::Error::AlertReceived(AlertDescription::CertificateRevoked)), ErrorKind::Auth);
        for error in [
            rustls::Error::AlertReceived(AlertDescription::InternalError),
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            rustls::Error::DecryptError,
        ] {
            assert_eq!(kind(error), ErrorKind::Connect);
        }
    }
}
