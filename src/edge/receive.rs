//! `walring receive`: connect, stream, and connect again until the end is wanted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::advice::{advise, is_missing_file};
use super::complaints::Complaints;
use super::connection::Connection;
use super::conninfo::Conninfo;
use super::connstring::ConnectionString;
use super::directory::Directory;
use super::exposure;
use super::full_disk::{self, OnDiskFull};
use super::histogram_log::HistogramLog;
use super::hosts::{self, Host};
use super::logging;
use super::observation::Observation;
use super::observers::Observers;
use super::options::{ConnectionOptions, ReceiveOptions, SlotOptions};
use super::password::PasswordPrompt;
use super::patience::Patience;
use super::savings;
use super::session::Receiving;
use super::settings;
use super::slot_watch::SlotWatch;
use super::summary::Summary;
use super::supervisor;
use crate::core::lsn::Lsn;
use crate::core::telemetry::{Activity, Telemetry, Upstream};
use crate::error::{Error, Result, system_text};
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
    let patience = Patience::start(Arc::clone(&telemetry))?;
    let summary = Summary::new(Arc::clone(&telemetry), options.log.format);
    summary.print_on_signal()?;
    let mut info = resolve(&options.connection)?;
    info.patience = options.receive_timeout;
    let mut prompt = PasswordPrompt::new(options.connection.password);
    let watch = SlotWatch::wanted(options, &telemetry, &prompt)?;
    hide_passwords(&options.connection);
    hide_password_in(options.slot_watch.as_ref());
    let directory = Directory::open(&options.directory)?;
    telemetry.set_activity(Activity::Starting);
    if let Some(host) = info.hosts.first() {
        telemetry.set_upstream(upstream(host));
    }
    let observation = Observation::new(options, Arc::clone(&telemetry));
    let observers = Observers::start(options.listen, watch, observation)?;
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
        durable_method: None,
        telemetry: Arc::clone(&telemetry),
        observers,
        patience,
        stop: stop.clone(),
        system_identifier: None,
        host: None,
        address: None,
        told_fork: None,
        synced: false,
        left: None,
        received_bytes: 0,
    };
    let watched = receiving.observers.are_there();
    let result = tokio::select! {
        biased;
        result = keep_receiving(&mut receiving, &info, &mut prompt) => result,
        never = supervisor::beat(&telemetry), if watched => match never {},
    };
    receiving.enter(Activity::Stopped);
    receiving.observers.end();
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
    let mut complaints = Complaints::default();
    let mut order = info.clone();
    loop {
        let (before, began) = (receiving.received_bytes, Instant::now());
        let has_streamed = receiving.telemetry.start.value() != Lsn::INVALID;
        receiving.enter(match has_streamed {
            true => Activity::Restarting,
            false => Activity::Starting,
        });
        let error = match attempt(receiving, &order, prompt).await {
            Ok(()) => return Ok(()),
            Err(error) => advise(error),
        };
        if error.is_interruption() {
            return Ok(());
        }
        if error.is_of_disk() {
            receiving.telemetry.disk_errors.increment();
            receiving.synced = false;
        }
        if is_missing_file(&error) {
            // Segments that somebody copies here are not durable because they are here.
            receiving.synced = false;
        }
        receiving.telemetry.set_trouble(error.to_string());
        if !error.is_retryable() {
            return Err(error);
        }
        if error.is_of_lacking_server() {
            try_others_first(receiving, &mut order);
        }
        if receiving.received_bytes > before {
            (wait, order) = (Duration::ZERO, info.clone());
            complaints.forget();
        }
        // A stream in which nothing was written is lost like any other.
        if began.elapsed() > LONGEST_WAIT {
            wait = Duration::ZERO;
        }
        let goes_on = match error.is_disk_full() {
            true => wait_for_room(receiving, error, wait).await?,
            false => {
                let is_news = complaints.is_news(&error, Instant::now());
                wait_to_connect(receiving, &error, is_news, wait).await?
            }
        };
        if !goes_on {
            return Ok(());
        }
        wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
    }
}

/// The server has not what is stored: other hosts, and other addresses of this one, are tried before it.
fn try_others_first(receiving: &Receiving<'_>, order: &mut Conninfo) {
    if let Some(host) = &receiving.host {
        hosts::put_last(&mut order.hosts, host);
    }
    if let Some(address) = receiving.address {
        order.lacking.note(address);
    }
}

/// After an error of the disk that only room can mend: waits for it, unless that is not wanted; false if the
/// operator wants the end.
async fn wait_for_room(receiving: &Receiving<'_>, error: Error, least: Duration) -> Result<bool> {
    let (directory, telemetry) = (receiving.directory.path(), &receiving.telemetry);
    if receiving.options.no_loop || receiving.options.on_disk_full == OnDiskFull::Exit {
        return Err(full_disk::not_waited_for(directory, telemetry, error));
    }
    receiving.enter(Activity::Waiting);
    full_disk::wait_for_room(directory, telemetry, &receiving.stop, error, least).await
}

/// After any other error that may be over: waits about so long; false if the operator wants the end. What was said
/// before is not said as an error again.
async fn wait_to_connect(
    receiving: &Receiving<'_>,
    error: &Error,
    is_news: bool,
    wait: Duration,
) -> Result<bool> {
    match is_news {
        true => logging::report(error),
        false => debug!("{error}"),
    }
    if receiving.options.no_loop {
        return Err(Error::connection("disconnected"));
    }
    receiving.enter(Activity::Waiting);
    Ok(pause(wait, is_news, &receiving.stop).await)
}

/// Waits, about so long, before the next attempt; false if the operator wants the end. No two
/// receivers that lost the same server come back at the same moment.
async fn pause(wait: Duration, is_news: bool, stop: &Stop) -> bool {
    if wait.is_zero() {
        info!("disconnected; trying again");
        return !stop.is_requested();
    }
    let wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
    let words = format!(
        "disconnected; waiting {:.1} seconds to try again",
        wait.as_secs_f64()
    );
    match is_news {
        true => info!("{words}"),
        false => debug!("{words}"),
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        () = stop.requested() => false,
    }
}

/// One connection, from its beginning to its end.
async fn attempt(receiving: &mut Receiving<'_>, info: &Conninfo, prompt: &mut PasswordPrompt) -> Result<()> {
    let stop = receiving.stop.clone();
    let mut connection = tokio::select! {
        connection = Connection::open(info, prompt) => connection?,
        () = stop.requested() => return Ok(()),
    };
    if receiving.system_identifier.is_some() {
        receiving.telemetry.reconnects.increment();
    }
    note_host(receiving, connection.host());
    receiving.address = connection.address();
    receiving.telemetry.set_upstream(Upstream {
        server_version: connection
            .parameter("server_version")
            .unwrap_or_default()
            .to_owned(),
        address: connection.address().map(|address| address.to_string()),
        ..connection.host().map(upstream).unwrap_or_default()
    });
    let outcome = receiving.run(&mut connection).await;
    // Whatever this brings, what was received is safe and reported.
    let _ = tokio::time::timeout(FAREWELL, connection.close()).await;
    outcome
}

/// Remembers where the connection leads; worth a line where that is another host than before.
fn note_host(receiving: &mut Receiving<'_>, host: Option<&Host>) {
    if let Some(now) = host
        && receiving.host.as_ref().is_some_and(|before| before != now)
    {
        info!("connected to host \"{}\", port {}", now.name, now.port);
    }
    receiving.host = host.cloned();
}

/// A host before it has said anything.
fn upstream(host: &Host) -> Upstream {
    Upstream {
        host: host.name.clone(),
        port: host.port,
        ..Upstream::default()
    }
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
    let info = resolve(options)?;
    hide_passwords(options);
    Connection::open(&info, &mut PasswordPrompt::new(options.password)).await
}

/// What the command line, the configuration file and the environment say about the connection.
fn resolve(options: &ConnectionOptions) -> Result<Conninfo> {
    settings::check_environment(std::env::vars_os())?;
    Conninfo::resolve(&options.explicit(), &|name| std::env::var(name).ok())
}

/// Overwrites passwords where others could read them; nobody reads them there again.
fn hide_passwords(options: &ConnectionOptions) {
    hide_password_in(options.dbname.as_ref());
    // Where this fails, only the same user and root can read it, as is usual.
    if std::env::var_os("PGPASSWORD").is_some() {
        let _ = exposure::hide_variable();
    }
}

fn hide_password_in(argument: Option<&ConnectionString>) {
    let text = argument.filter(|text| text.holds_secret());
    if let Some(Err(error)) = text.map(|text| exposure::hide_argument(text.as_str())) {
        warn!(
            hint = "Put it into a password file.",
            "others can see the password on the command line: could not hide it: {}",
            system_text(&error)
        );
    }
}
