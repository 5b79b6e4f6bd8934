//! `walring receive`: connect, stream, and connect again until the end is wanted.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info};

use super::cli::{ConnectionOptions, ReceiveOptions, SlotOptions};
use super::connection::Connection;
use super::conninfo::{Conninfo, Explicit};
use super::directory::Directory;
use super::histogram_log::HistogramLog;
use super::logging;
use super::password::PasswordPrompt;
use super::savings;
use super::session::{Outcome, Receiving};
use super::summary::Summary;
use crate::core::telemetry::Telemetry;
use crate::error::{Error, Result};
use crate::ring::setup;
use crate::ring::stop::Stop;

/// The unit of buffered writes: pages, as the page cache has them.
const PAGE: u64 = 4096;

/// The second wait before connecting again; the first attempt follows at once.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait before connecting again.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Once stopped, so long the server may take to confirm the end before the socket is closed anyway.
const FAREWELL: Duration = Duration::from_millis(300);

/// Receives until the end position, a signal, or an error that trying again cannot mend.
pub async fn receive(options: &ReceiveOptions, stop: Stop) -> Result<()> {
    let telemetry = Arc::new(Telemetry::default());
    let summary = Summary::new(Arc::clone(&telemetry), options.log.format);
    summary.print_on_signal()?;
    let info = connection_settings(&options.connection)?;
    let mut prompt = PasswordPrompt::new(options.connection.password);
    let directory = Directory::open(&options.directory)?;
    let block = if options.buffered {
        PAGE
    } else {
        u64::from(directory.direct_io_alignment()?)
    };
    let slots = setup::register_slots(block as usize)?;
    if let Some(path) = &options.baseline {
        telemetry.measures().savings = Some(savings::against(path)?);
    }
    // Not before the directory is ours: the log of a receiver that is there already goes on.
    let log = options.histogram_log.as_deref();
    let log = log
        .map(|path| HistogramLog::start(path, &telemetry))
        .transpose()?;
    let mut receiving = Receiving {
        options,
        directory,
        block,
        slots,
        telemetry,
        durable_method: None,
        stop: stop.clone(),
        system_identifier: None,
        left: None,
        received_bytes: 0,
    };
    let result = keep_receiving(&mut receiving, &info, &mut prompt).await;
    if stop.is_requested() {
        debug!("received interrupt signal, exiting");
    }
    drop(log);
    if options.latency_report {
        summary.print();
    }
    result
}

async fn keep_receiving(
    receiving: &mut Receiving<'_>,
    info: &Conninfo,
    prompt: &mut PasswordPrompt,
) -> Result<()> {
    let mut wait = Duration::ZERO;
    loop {
        let before = receiving.received_bytes;
        let error = match attempt(receiving, info, prompt).await {
            Ok(Outcome::Finished) => return Ok(()),
            Err(error) => error,
        };
        if error.is_interruption() {
            return Ok(());
        }
        if !error.is_retryable() {
            return Err(error);
        }
        logging::report(&error);
        if receiving.options.no_loop {
            return Err(Error::connection("disconnected"));
        }
        if receiving.received_bytes > before {
            wait = Duration::ZERO;
        }
        if !pause(wait, &receiving.stop).await {
            return Ok(());
        }
        wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
    }
}

/// Waits, about so long, before the next attempt; false if the operator wants the end. No two
/// receivers that lost the same server come back at the same moment.
async fn pause(wait: Duration, stop: &Stop) -> bool {
    if wait.is_zero() {
        info!("disconnected; trying again");
        return !stop.is_requested();
    }
    let wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
    info!(
        "disconnected; waiting {:.1} seconds to try again",
        wait.as_secs_f64()
    );
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        () = stop.requested() => false,
    }
}

/// One connection, from its beginning to its end.
async fn attempt(
    receiving: &mut Receiving<'_>,
    info: &Conninfo,
    prompt: &mut PasswordPrompt,
) -> Result<Outcome> {
    let stop = receiving.stop.clone();
    let mut connection = tokio::select! {
        connection = Connection::open(info, prompt) => connection?,
        () = stop.requested() => return Ok(Outcome::Finished),
    };
    let outcome = receiving.run(&mut connection).await;
    // Whatever this brings, what was received is safe and reported.
    let _ = tokio::time::timeout(FAREWELL, connection.close()).await;
    outcome
}

/// Creates a replication slot.
pub async fn create_slot(options: &SlotOptions) -> Result<()> {
    let mut connection = open_once(&options.connection).await?;
    debug!("creating replication slot \"{}\"", options.slot);
    connection
        .create_physical_slot(&options.slot, options.if_not_exists)
        .await?;
    connection.close().await;
    Ok(())
}

/// Drops a replication slot.
pub async fn drop_slot(options: &SlotOptions) -> Result<()> {
    let mut connection = open_once(&options.connection).await?;
    debug!("dropping replication slot \"{}\"", options.slot);
    connection.drop_slot(&options.slot).await?;
    connection.close().await;
    Ok(())
}

async fn open_once(options: &ConnectionOptions) -> Result<Connection> {
    let info = connection_settings(options)?;
    Connection::open(&info, &mut PasswordPrompt::new(options.password)).await
}

/// What the command line and the environment say about the connection.
fn connection_settings(options: &ConnectionOptions) -> Result<Conninfo> {
    let explicit = Explicit {
        dbname: options.dbname.clone(),
        host: options.host.clone(),
        port: options.port.clone(),
        username: options.username.clone(),
        program_name: options.program_name.clone(),
    };
    Conninfo::resolve(&explicit, &|name| std::env::var(name).ok())
}
