//! Certificates made on the spot, and a front that speaks TLS for a plain port.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate with its key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
    /// Demand a client certificate of this authority.
    pub client_authority: Option<String>,
}

impl Authority {
    /// Authorities need names of their own: a certificate is matched with its authority by name first.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names or addresses.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| {})
    }

    /// A certificate that was valid in the year 2000 only.
    pub fn issue_expired(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2000, 12, 31);
        })
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem(), client_authority: None }
    }
}

impl Identity {
    /// Demands a client certificate that `authority` signed.
    pub fn demanding_client_of(mut self, authority: &Authority) -> Self {
        self.client_authority = Some(authority.pem.clone());
        self
    }

    /// How a server shows it.
    pub fn config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = match &self.client_authority {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()];
        let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// Accepts connections and gives each to a handler on a thread of its own; dropping it closes them all and waits for the threads.
pub struct Acceptor {
    pub port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    pub fn start(name: &str, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, handle) = (Arc::clone(&stop), Arc::new(handle));
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let mut open: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
            for connection in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let connection = connection.unwrap();
                let end = connection.try_clone().unwrap();
                let handle = Arc::clone(&handle);
                let thread = std::thread::spawn(move || {
                    let end = connection.try_clone().unwrap();
                    handle(connection);
                    // Another handle is kept for the end of the server, so dropping would not close it.
                    let _ = end.shutdown(Shutdown::Both);
                });
                open.retain(|(_, thread)| !thread.is_finished());
                open.push((end, thread));
            }
            for (connection, _) in &open {
                let _ = connection.shutdown(Shutdown::Both);
            }
            for (_, thread) in open {
                let _ = thread.join();
            }
        });
        Self { port, stop, thread: Some(thread.unwrap()) }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread, which then closes what is open.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

/// Speaks TLS and passes on to a plain port of this machine.
pub struct Front {
    pub port: u16,
    _acceptor: Acceptor,
}

impl Front {
    pub fn start(identity: &Identity, plain_port: u16) -> Self {
        let config = Arc::new(identity.config());
        let acceptor = Acceptor::start("scripted-tls", move |outside| {
            let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
            // Clients that leave, and handshakes that fail, are what tests are about.
            match shake_hands(&mut session, &mut &outside) {
                Ok(()) => drop(serve(session, outside, plain_port)),
                Err(_) => linger(outside),
            }
        });
        Self { port: acceptor.port, _acceptor: acceptor }
    }
}

fn shake_hands(session: &mut ServerConnection, outside: &mut &TcpStream) -> std::io::Result<()> {
    while session.is_handshaking() {
        session.complete_io(outside)?;
    }
    while session.wants_write() {
        session.write_tls(outside)?;
    }
    Ok(())
}

/// Lets the client read the alert: closing with bytes unread would make the kernel throw it away.
fn linger(mut outside: TcpStream) {
    let _ = outside.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut outside, &mut std::io::sink());
}

fn serve(session: ServerConnection, mut outside: TcpStream, plain_port: u16) -> std::io::Result<()> {
    let inside = TcpStream::connect(("127.0.0.1", plain_port))?;
    let session = Arc::new(Mutex::new(session));
    let outgoing = {
        let (session, mut inside, mut outside) = (Arc::clone(&session), inside.try_clone()?, outside.try_clone()?);
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut bytes = vec![0; 16 * 1024];
            loop {
                let count = inside.read(&mut bytes)?;
                let mut session = session.lock().unwrap();
                if count == 0 {
                    session.send_close_notify();
                } else {
                    session.writer().write_all(&bytes[..count])?;
                }
                while session.wants_write() {
                    session.write_tls(&mut outside)?;
                }
                if count == 0 {
                    return outside.shutdown(Shutdown::Both);
                }
            }
        })
    };
    let incoming = (|| -> std::io::Result<()> {
        let (mut inside, mut wire, mut plain) = (inside.try_clone()?, vec![0; 16 * 1024], Vec::new());
        let mut count = 0;
        loop {
            {
                let mut session = session.lock().unwrap();
                let mut rest = &wire[..count];
                // Once without bytes: the client's first ones may have come with the end of the handshake.
                loop {
                    let state = session.process_new_packets().map_err(std::io::Error::other)?;
                    let start = plain.len();
                    plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    session.reader().read_exact(&mut plain[start..])?;
                    if rest.is_empty() {
                        break;
                    }
                    session.read_tls(&mut rest)?;
                }
                while session.wants_write() {
                    session.write_tls(&mut outside)?;
                }
            }
            inside.write_all(&plain)?;
            plain.clear();
            count = outside.read(&mut wire)?;
            if count == 0 {
                return Ok(());
            }
        }
    })();
    let _ = inside.shutdown(Shutdown::Both);
    let _ = outgoing.join();
    incoming
}
