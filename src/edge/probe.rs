//! `walring probe`: how long a durable write takes on the disk of a directory, by each method there is.
//!
//! The methods take turns, one write of each in every round, in random order and with a pause before
//! each, so that whatever else the disk does meets all of them alike.

mod environment;
mod mount;
mod recommendation;
mod report;

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use self::environment::Environment;
use self::recommendation::{Medians, recommend};
use self::report::{Measured, Report};
use super::baseline::write_baseline;
use super::cli::ProbeOptions;
use super::directory::Directory;
use super::durable_method::Duel;
use super::logging;
use crate::core::measure::Times;
use crate::core::writes::Slot;
use crate::error::{Error, Result, system_text};
use crate::ring::buffer::Slots;
use crate::ring::durable::Method;
use crate::ring::setup;
use crate::ring::stop::Stop;
use crate::ring::trial::{Trial, Way, remove_leftovers};

/// Bytes that one commit adds on the standard path: fewest and most.
const STANDARD_BYTES: (usize, usize) = (300, 8192);

/// Bytes of a commit-sized write, a commit over two pages, and a group of commits.
const DIRECT_BYTES: [usize; 3] = [4096, 8192, 64 << 10];

/// The least block that a disk may have.
const SECTOR: usize = 512;

/// Bytes in the standard path's file: a segment.
const STANDARD_FILE: u64 = 16 << 20;

/// Bytes in the file of each other method.
const OTHER_FILE: u64 = 4 << 20;

/// Fewer rounds are not enough, whatever time they take.
const LEAST_ROUNDS: u64 = 5;

/// Measures and prints the report.
pub async fn probe(options: &ProbeOptions, stop: &Stop) -> Result<()> {
    let directory = Directory::open_unlocked(&options.directory)?;
    let in_use = directory.is_in_use();
    if in_use {
        warn!(
            "directory \"{}\" is in use by a receiver: each makes the other slower",
            options.directory.display()
        );
    }
    let mut environment = Environment::of(&directory, None)?;
    let slots = setup::register_slots(environment.direct_io.block as usize);
    environment.locked_memory.fits = Some(slots.is_ok());
    let mut report = Report::new(options, in_use, environment);
    let mut slots = slots.inspect_err(|_| print_or_log(options, &report))?;
    let failed = |error: io::Error| {
        let (path, reason) = (options.directory.display(), system_text(&error));
        Error::disk(format!("could not measure in directory \"{path}\": {reason}"))
    };
    remove_leftovers(&options.directory).map_err(failed)?;
    let contest = Contest::prepare(options, &report.environment, &mut slots, stop).await;
    let mut contest = contest.map_err(failed)?.ok_or_else(Error::interrupted)?;
    info!(
        "measuring for about {} seconds in \"{}\"",
        options.duration.as_secs_f64(),
        options.directory.display()
    );
    let (began, clock) = (SystemTime::now(), Instant::now());
    let finished = contest.run(options, &mut slots, stop).await.map_err(failed)?;
    if !finished {
        return Err(Error::interrupted());
    }
    let elapsed = clock.elapsed();
    report.seconds = elapsed.as_secs_f64();
    report.methods = contest.contenders.iter().map(Contender::measured).collect();
    report.recommendation = Some(recommend(&contest.medians()));
    print(options, &report)?;
    if let Some(path) = &options.baseline_out {
        let times = contest.contenders[0].times.histogram();
        let about = "pg_receivewal's way to have WAL durable, measured by walring probe";
        write_baseline(path, times, began, elapsed, about)?;
    }
    Ok(())
}

/// Prints what can be found out without a ring, which the kernel has refused.
pub fn without_ring(options: &ProbeOptions, refusal: &Error) {
    let found = Directory::open_unlocked(&options.directory).and_then(|directory| {
        let environment = Environment::of(&directory, Some(refusal))?;
        Ok(Report::new(options, directory.is_in_use(), environment))
    });
    match found {
        Ok(report) => print_or_log(options, &report),
        Err(error) => logging::report(&error),
    }
}

impl Report {
    /// Nothing is measured yet.
    fn new(options: &ProbeOptions, in_use: bool, environment: Environment) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            directory: options.directory.display().to_string(),
            in_use,
            environment,
            seconds: 0.0,
            pause_ms: options.pause.as_secs_f64() * 1000.0,
            methods: Vec::new(),
            recommendation: None,
        }
    }
}

fn print(options: &ProbeOptions, report: &Report) -> Result<()> {
    let text = if options.json {
        report.json()
    } else {
        report.text()
    };
    io::stdout().write_all(text.as_bytes()).map_err(|error| {
        let reason = system_text(&error);
        Error::disk(format!("could not write to standard output: {reason}"))
    })
}

/// Prints a report in front of an error.
fn print_or_log(options: &ProbeOptions, report: &Report) {
    if let Err(error) = print(options, report) {
        logging::report(&error);
    }
}

/// One method with one length of writes.
struct Contender {
    /// Fewest and most bytes of a write.
    bytes: (usize, usize),
    trial: Trial,
    times: Times,
}

impl Contender {
    fn method(&self) -> &'static str {
        match self.trial.way() {
            Way::Standard => "standard",
            Way::Direct(Method::Dsync) => "dsync",
            Way::Direct(Method::Fdatasync) => "fdatasync",
            Way::Buffered => "buffered",
        }
    }

    fn measured(&self) -> Measured {
        Measured::new(self.method(), self.bytes, self.times.histogram())
    }

    fn median(&self) -> f64 {
        self.times.histogram().value_at_quantile(0.5) as f64
    }
}

/// All methods, in the order of [`plan`].
struct Contest {
    contenders: Vec<Contender>,
    /// Which of them make commit-sized writes past the page cache: dsync and fdatasync.
    rivals: Option<(usize, usize)>,
    /// Rounds in which the second of the two was quicker.
    second_won: u64,
}

impl Contest {
    /// Prepares a file for each method; `None` if the operator wants the end.
    async fn prepare(
        options: &ProbeOptions,
        environment: &Environment,
        slots: &mut Slots,
        stop: &Stop,
    ) -> io::Result<Option<Contest>> {
        let mut contenders = Vec::new();
        for (way, bytes) in plan(environment) {
            let size = match way {
                Way::Standard => STANDARD_FILE,
                _ => OTHER_FILE,
            };
            let trial = Trial::prepare(&options.directory, way, size, slots, stop).await?;
            let Some(trial) = trial else { return Ok(None) };
            contenders.push(Contender {
                bytes,
                trial,
                times: Times::new(),
            });
        }
        let block = environment.direct_io.block as usize;
        let rival = |method: Method| {
            contenders.iter().position(|contender: &Contender| {
                contender.trial.way() == Way::Direct(method) && contender.bytes.0 == block
            })
        };
        let rivals = rival(Method::Dsync).zip(rival(Method::Fdatasync));
        Ok(Some(Contest {
            contenders,
            rivals,
            second_won: 0,
        }))
    }

    /// Rounds until the time is over; the first one does not count. False if the operator wants the end.
    async fn run(&mut self, options: &ProbeOptions, slots: &mut Slots, stop: &Stop) -> io::Result<bool> {
        let mut buffer = slots.take(Slot(0));
        // Disks may treat zeros specially.
        fastrand::fill(&mut buffer);
        let mut order: Vec<usize> = (0..self.contenders.len()).collect();
        let mut took = vec![Duration::ZERO; order.len()];
        let began = Instant::now();
        let mut round = 0;
        while round <= LEAST_ROUNDS || began.elapsed() < options.duration {
            fastrand::shuffle(&mut order);
            for &index in &order {
                if !wait(options.pause, stop).await {
                    return Ok(false);
                }
                let contender = &mut self.contenders[index];
                let length = fastrand::usize(contender.bytes.0..=contender.bytes.1);
                let (result, returned) = contender.trial.write(buffer, length).await;
                (took[index], buffer) = (result?, returned);
            }
            if round > 0 {
                self.count(&took);
            }
            round += 1;
        }
        Ok(true)
    }

    /// Counts a round: so long each contender took.
    fn count(&mut self, took: &[Duration]) {
        for (contender, &time) in self.contenders.iter_mut().zip(took) {
            contender.times.record(time);
        }
        if let Some((first, second)) = self.rivals {
            self.second_won += u64::from(took[second] < took[first]);
        }
    }

    /// Of the commit-sized writes.
    fn medians(&self) -> Medians {
        let last = self.contenders.len() - 1;
        Medians {
            standard: self.contenders[0].median(),
            buffered: self.contenders[last].median(),
            direct: self.rivals.map(|(dsync, fdatasync)| Duel {
                dsync: self.contenders[dsync].median(),
                fdatasync: self.contenders[fdatasync].median(),
                rounds: self.contenders[dsync].times.histogram().len(),
                fdatasync_won: self.second_won,
            }),
        }
    }
}

/// What is measured here: ways to write, with the fewest and the most bytes of a write. The standard path
/// is the first, the page cache the last.
fn plan(environment: &Environment) -> Vec<(Way, (usize, usize))> {
    let direct = &environment.direct_io;
    let block = direct.block as usize;
    let mut plan = vec![(Way::Standard, STANDARD_BYTES)];
    if direct.supported {
        let fits_sector = |alignment: Option<u32>| alignment.is_some_and(|bytes| bytes as usize <= SECTOR);
        let sector =
            (fits_sector(direct.memory_alignment) && fits_sector(direct.offset_alignment)).then_some(SECTOR);
        let larger = DIRECT_BYTES.into_iter().filter(|&bytes| bytes > block);
        let lengths: Vec<usize> = sector.into_iter().chain([block]).chain(larger).collect();
        for method in [Method::Dsync, Method::Fdatasync] {
            let ways = lengths.iter().map(|&bytes| (Way::Direct(method), (bytes, bytes)));
            plan.extend(ways);
        }
    }
    plan.push((Way::Buffered, (block, block)));
    plan
}

/// False if the operator wants the end.
async fn wait(pause: Duration, stop: &Stop) -> bool {
    if !pause.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => {}
        }
    } else {
        // Signals are seen when others may run.
        tokio::task::yield_now().await;
    }
    !stop.is_requested()
}
