//! The network: an accept loop, mutual TLS 1.3, and HTTP/2 with every limit set. It must not use tonic's own server,
//! which has no handshake timeout, no limit of streams, and a hot loop on EMFILE.

mod accept;
mod budget;
mod calls;
mod connection;
mod connection_limits;
mod ending;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handshake_queue;
mod handshake_rate;
pub(crate) mod live;
mod messages;
mod network;
mod preauth;
mod preface;
mod recorded;
mod reserve;
pub(crate) mod tls;
pub(crate) mod trust;
mod windows;

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::serve::accept::{Arrival, Threads};
use crate::serve::connection::Server;
use crate::serve::connection_limits::{Capacity, ConnectionLimits};
use crate::serve::live::RevokedPeer;
use crate::serve::preauth::PreauthLimit;
use crate::serve::tls::Tls;

use crate::audit::Audit;
use crate::auth::Policy;
use crate::quota::Quotas;
use crate::quota::descriptors::Shares;
use crate::quota::fair_queue::FairQueue;

/// Serves `routes` on `listener` until `closing` is true and every connection has received GOAWAY.
///
/// Each connection stays on one thread with its own runtime: measured, twice the throughput of one multi-threaded
/// runtime. The calling thread, which also runs the jobs' monitors, is the first of these threads: a connection on it
/// reads a job's output without a thread switch.
///
/// `audit` gets the connections that are refused, or ended for their certificate; `revoked` gets those whose connection has ended because their certificate is revoked.
///
/// # Errors
/// A thread or a runtime cannot be created.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Tls>,
    routes: Routes,
    policy: watch::Receiver<Policy>,
    quotas: &Quotas,
    (audit, revoked): (Audit, mpsc::UnboundedSender<RevokedPeer>),
    closing: watch::Receiver<bool>,
) -> io::Result<()> {
    let places = Capacity::of(Shares::of_this_process().connections);
    let connection_limits = ConnectionLimits::new(places, policy, quotas);
    let server = Arc::new(Server::new(tls, routes, connection_limits, quotas, (audit, revoked)));
    let count = thread::available_parallelism().map_or(1, usize::from).min(8);
    let mut workers = Vec::new();
    let mut threads = JoinSet::new();
    let (sender, own_arrivals) = mpsc::unbounded_channel();
    workers.push(sender);
    for n in 1..count {
        let (sender, arrivals) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (server, closing) = (Arc::clone(&server), closing.clone());
        let thread = thread::Builder::new()
            .name(format!("connections-{n}"))
            .spawn(move || runtime.block_on(work(server, arrivals, closing)))?;
        threads.spawn_blocking(move || thread.join().is_ok());
        workers.push(sender);
    }
    let preauth = PreauthLimit::new(places.preauth as usize);
    let accepting = accept::accept(listener, Threads::new(workers), preauth, closing.clone());
    tokio::join!(accepting, work(server, own_arrivals, closing));
    while threads.join_next().await.is_some() {}
    Ok(())
}

/// Serves one thread's connections until the last of them has ended.
async fn work(
    server: Arc<Server>,
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
    closing: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let handshake_queue = FairQueue::new(1, 1);
    loop {
        tokio::select! {
            arrival = arrivals.recv() => match arrival {
                Some(Arrival { tcp, from, place, thread_slot }) => {
                    let (server, closing) = (Arc::clone(&server), closing.clone());
                    let handshake_queue = Arc::clone(&handshake_queue);
                    connections.spawn(async move {
                        let _ticket = thread_slot;
                        server.serve(tcp, from, place, handshake_queue, closing).await;
                    });
                }
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}
