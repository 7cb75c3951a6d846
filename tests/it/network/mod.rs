//! A network that fails, between the library and real servers.

mod capture;
mod interrupt;
mod tables;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::proxy::{Fault, Proxy, Way};
use crate::support::servers::Server;

/// A server behind two proxies: of its MySQL port, and of its gRPC port.
pub struct Network {
    pub mysql: Proxy,
    pub grpc: Option<Proxy>,
    server: &'static Server,
}

impl Network {
    /// Both pass everything at first.
    pub fn to(server: &'static Server) -> Self {
        let mysql = Proxy::start((&server.mysql_host, server.mysql_port), |_, _| Fault::None);
        let grpc = server.grpc.as_ref().map(|(host, port)| Proxy::start((host, *port), |_, _| Fault::None));
        Self { mysql, grpc, server }
    }

    pub fn grpc(&self) -> &Proxy {
        self.grpc.as_ref().unwrap()
    }

    /// A URI of the server that goes through the proxies.
    pub fn through(&self, uri: &str) -> String {
        let ours = uri.replacen(&format!(":{}/", self.server.mysql_port), &format!(":{}/", self.mysql.port), 1);
        assert_ne!(ours, uri);
        match (&self.grpc, &self.server.grpc) {
            (Some(proxy), Some((_, port))) => ours.replacen(&format!("grpc_port={port}"), &format!("grpc_port={}", proxy.port), 1),
            _ => ours,
        }
    }
}

/// Lets `bytes` of the server pass, counted from `from` on over all connections, then does this to the connection on which that happens, and
/// nothing to later ones.
pub fn once_after(from: u64, bytes: u64, fault: fn(Way, u64) -> Fault) -> impl Fn(usize, u64) -> Fault + Send + Sync + 'static {
    let done = AtomicBool::new(false);
    move |_, sent| {
        let sent = sent - from;
        if done.load(Ordering::SeqCst) || sent >= bytes {
            done.store(true, Ordering::SeqCst);
            return Fault::None;
        }
        fault(Way::FromServer, bytes - sent)
    }
}

pub fn cut(way: Way, after: u64) -> Fault {
    Fault::Cut { way, after }
}

pub fn reset(way: Way, after: u64) -> Fault {
    Fault::Reset { way, after }
}

pub fn flip(way: Way, after: u64) -> Fault {
    Fault::Flip { way, after }
}
