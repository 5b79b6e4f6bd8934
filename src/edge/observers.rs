//! The thread that tells others how the receiver is, over HTTP and to systemd, and that looks after its replication slot.
//!
//! It has its own small runtime and shares nothing with the receiver's thread but atomic numbers and,
//! for as long as it takes to copy them, the histograms. Without `--listen`, `--slot-watch` and a service
//! manager there is no such thread.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tracing::info;

use super::observation::Observation;
use super::slot_watch::SlotWatch;
use super::{http, supervisor};
use crate::error::{Error, Result, system_text};

/// How often the positions are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The thread, if there is one; it ends with this value.
#[derive(Debug, Default)]
pub struct Observers {
    news: Arc<Notify>,
    end: Option<oneshot::Sender<()>>,
}

impl Observers {
    /// Begins to listen and to look after the slot, if wanted, and to tell the service manager, if there is one. An address that
    /// cannot be listened on is an error.
    pub fn start(
        listen: Option<SocketAddr>,
        watch: Option<SlotWatch>,
        observation: Observation,
    ) -> Result<Observers> {
        let listener = listen.map(bind).transpose()?;
        if listener.is_none() && watch.is_none() && !supervisor::is_present() {
            return Ok(Observers::default());
        }
        let (end, ended) = oneshot::channel();
        let news = Arc::new(Notify::new());
        let watched = Arc::clone(&news);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| no_thread(&error))?;
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = observe(listener, watch, Arc::new(observation), &watched) => {}
                    _ = ended => {}
                }
            });
        };
        let thread = thread::Builder::new().name("walring-observe".to_owned());
        thread.spawn(work).map_err(|error| no_thread(&error))?;
        Ok(Observers { news, end: Some(end) })
    }

    /// Whether anybody looks.
    pub fn are_there(&self) -> bool {
        self.end.is_some()
    }

    /// The receiver begins to do something else.
    pub fn notice(&self) {
        self.news.notify_one();
    }

    /// The receiver is about to end.
    pub fn end(&mut self) {
        if self.end.take().is_some() {
            supervisor::stopping();
        }
    }
}

async fn observe(
    listener: Option<TcpListener>,
    watch: Option<SlotWatch>,
    observation: Arc<Observation>,
    news: &Notify,
) {
    let served = async {
        match listener.map(tokio::net::TcpListener::from_std) {
            Some(Ok(listener)) => http::serve(listener, Arc::clone(&observation)).await,
            // A descriptor that is a listening socket can be waited for.
            Some(Err(_)) | None => std::future::pending().await,
        }
    };
    let looked = async {
        let mut often = tokio::time::interval(LOOK);
        loop {
            often.tick().await;
            observation.look();
        }
    };
    let looked_after = async {
        match watch {
            Some(watch) => match watch.watch(&observation).await {},
            None => std::future::pending().await,
        }
    };
    tokio::join!(served, looked, looked_after, supervisor::tell(&observation, news));
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    let (listener, address) = bound.map_err(|error| {
        let message = format!("could not listen on {address}: {}", system_text(&error));
        Error::unsupported(message).with_hint("Give another address or port with --listen.")
    })?;
    match address.ip().is_loopback() {
        true => info!(%address, "listening on http://{address}/"),
        false => info!(
            %address,
            "listening on http://{address}/, for everybody who can reach that address"
        ),
    }
    Ok(listener)
}

fn no_thread(error: &io::Error) -> Error {
    let reason = system_text(error);
    Error::unsupported(format!(
        "could not start the thread for metrics and health: {reason}"
    ))
}
