//! The `walring` program; everything it does is in the library.

use std::alloc::System;
use std::future::Future;
use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use walring::edge::cli::{self, Command};
use walring::edge::options::LogOptions;
use walring::edge::{descriptors, inspect, logging, probe, receive, top, verify};
use walring::error::{Error, Result};
use walring::ring::setup;
use walring::ring::stop::Stop;
use zeroizing_alloc::ZeroAlloc;

/// Memory is zeroed when it is given back: no copy of a password outlives its use, whoever made it. The WAL's own
/// memory is not allocated here ([`walring::ring::buffer`]).
#[global_allocator]
static MEMORY: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(refusal) => return refusal.report(),
    };
    let (program, log) = match &command {
        Command::Verify(options) => return looked(verify::run(options)),
        Command::Inspect(options) => return looked(inspect::run(options)),
        Command::Check(checked) => return checked.report(),
        Command::Print(text) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Command::Receive(options) => (&options.connection.program_name, options.log),
        Command::CreateSlot(options) | Command::DropSlot(options) => {
            (&options.connection.program_name, options.log)
        }
        Command::Probe(options) => (&options.program_name, LogOptions::default()),
        Command::Top(options) => (&options.program_name, LogOptions::default()),
    };
    logging::init(program, log.format, log.verbose);
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Receive(options) => {
            descriptors::prepare()?;
            let runtime = setup::start()?;
            let received = runtime.block_on(async {
                let stop = Stop::default();
                stop_on_signals(&stop)?;
                receive::receive(options, stop).await
            });
            // Dropping it would wait for a name that is still being looked up, which may take half a minute.
            std::mem::forget(runtime);
            received
        }
        Command::Probe(options) => {
            let runtime = setup::start().inspect_err(|refusal| probe::without_ring(options, refusal))?;
            runtime.block_on(async {
                let stop = Stop::default();
                stop_on_signals(&stop)?;
                probe::probe(options, &stop).await
            })
        }
        Command::CreateSlot(options) => block_on(until_a_signal(receive::create_slot(options))),
        Command::DropSlot(options) => block_on(until_a_signal(receive::drop_slot(options))),
        Command::Top(options) => block_on(top::run(options)),
        Command::Print(_) | Command::Check(_) | Command::Verify(_) | Command::Inspect(_) => Ok(()),
    }
}

/// The exit code of a command for which 1 means that something is damaged: 2 if it could not look.
fn looked(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        logging::init("walring", logging::LogFormat::Text, false);
        logging::report(&error);
        ExitCode::from(2)
    })
}

/// Runs what needs no ring.
fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| system_error(&error))?;
    let result = runtime.block_on(work);
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    result
}

/// The work is given up at SIGINT or SIGTERM, and puts the terminal right if it was asking for a password.
async fn until_a_signal(work: impl Future<Output = Result<()>>) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|error| system_error(&error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => Err(Error::interrupted()),
        _ = terminate.recv() => Err(Error::interrupted()),
    }
}

/// SIGINT and SIGTERM ask for the end; what was received becomes durable first. SIGXFSZ would be a silent one: a
/// file that may not grow any more is an error like others.
fn stop_on_signals(stop: &Stop) -> Result<()> {
    let _handled_from_now_on =
        signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(|error| system_error(&error))?;
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).map_err(|error| system_error(&error))?;
        let stop = stop.clone();
        tokio_uring::spawn(async move {
            while signals.recv().await.is_some() {
                stop.request();
            }
        });
    }
    Ok(())
}

fn system_error(error: &io::Error) -> Error {
    Error::unsupported(format!("could not set up the event loop: {error}"))
}
