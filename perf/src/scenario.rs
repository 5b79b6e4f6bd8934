//! What is done with each receiver, and what is measured meanwhile.
//!
//! A visit is one receiver in one round: it starts on a new directory, the work is done, it acknowledges all
//! there is, is stopped, and what it stored is compared with the primary's.

mod boundary;
mod bulk;
mod catch_up;
mod commit;
mod reconnect;
mod rollover;
mod scene;
mod start_up;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tempfile::TempDir;

use crate::plan::{Plan, Visit, name_of};
use crate::primary::Primary;
use crate::receiver::{Contender, Program, Programs, Running, Way, take_base_backup};
use crate::results::{Case, Kind, Metric};
use crate::site::Site;
use crate::stored::Stored;
use scene::Scene;

/// The usual size of a segment, MiB.
const SEGMENT_MIB: u32 = 16;
/// A small one, so that there are many.
const SMALL_SEGMENT_MIB: u32 = 1;

/// How long a receiver that has just started is left alone.
const SETTLE: Duration = Duration::from_millis(300);

/// Everything a comparison uses again and again.
pub struct Bench<'a> {
    /// What is done, how often and for how long.
    pub plan: &'a mut Plan,
    programs: &'a Programs,
    primaries: BTreeMap<u32, Primary>,
    catch_up: Option<catch_up::Range>,
    /// The open loop's rate by disk, once it is known, commits a second.
    rates: BTreeMap<String, f64>,
}

impl<'a> Bench<'a> {
    /// Nothing is started before it is used.
    pub fn new(plan: &'a mut Plan, programs: &'a Programs) -> Bench<'a> {
        Bench {
            plan,
            programs,
            primaries: BTreeMap::new(),
            catch_up: None,
            rates: BTreeMap::new(),
        }
    }

    /// The usual primary.
    pub fn primary(&mut self) -> Result<&mut Primary> {
        self.primary_of(SEGMENT_MIB)
    }

    /// Does one kind of work with all receivers in turn.
    pub fn cases(&mut self, site: &Site, kind: Kind) -> Result<Vec<Case>> {
        let done = self.dispatch(site, kind);
        done.map_err(|error| {
            let logs = self
                .primaries
                .values()
                .map(Primary::log_tail)
                .collect::<Vec<_>>()
                .join(" | ");
            let what = format!("{}, {}", site.key(), name_of(kind));
            anyhow!("{what}: {error:#}; the primary's log ends with: {logs}")
        })
    }

    fn dispatch(&mut self, site: &Site, kind: Kind) -> Result<Vec<Case>> {
        match kind {
            Kind::Commit => commit::closed(self, site),
            Kind::OpenLoop => commit::open(self, site),
            Kind::Rollover => rollover::cases(self, site),
            Kind::Bulk => bulk::cases(self, site),
            Kind::Boundary => boundary::cases(self, site),
            Kind::CatchUp => catch_up::cases(self, site),
            Kind::Reconnect => reconnect::cases(self, site),
            Kind::StartUp => start_up::cases(self, site),
        }
    }

    /// The primary with segments of this size; made when it is first asked for.
    fn primary_of(&mut self, segment_mib: u32) -> Result<&mut Primary> {
        if !self.primaries.contains_key(&segment_mib) {
            let mut primary = Primary::start(&self.programs.installation, segment_mib)?;
            primary.execute("CREATE TABLE sample (client int, payload text)")?;
            primary.execute("CREATE TABLE bulk (number int, payload text)")?;
            self.primaries.insert(segment_mib, primary);
        }
        Ok(self.primaries.get_mut(&segment_mib).expect("it was just made"))
    }

    /// One receiver in one round, from its start to the check of what it stored.
    fn visit<T>(
        &mut self,
        site: &Site,
        segment_mib: u32,
        visit: &Visit,
        work: impl FnOnce(&mut Scene) -> Result<T>,
    ) -> Result<T> {
        self.plan.begin(site.key(), visit);
        let programs = self.programs;
        let primary = self.primary_of(segment_mib)?;
        let contender = &visit.contender;
        let stage = Stage::prepare(programs, primary, site, contender)?;
        let mut running = contender.start(programs, primary, stage.directory.path(), Way::Live)?;
        running.wait_until_synchronous(primary)?;
        // What a receiver does at its start and not again, such as preparing a spare file, is not measured.
        std::thread::sleep(SETTLE);
        let mut scene = Scene {
            primary,
            site,
            visit,
            observed: running.observed()?,
        };
        let done = work(&mut scene);
        let done = running.explain(done)?;
        stage.finish(primary, contender, running)?;
        Ok(done)
    }
}

/// A receiver's directory, and from where it receives.
struct Stage {
    directory: TempDir,
    first: u64,
}

impl Stage {
    /// The same state of primary and disk for each.
    fn prepare(
        programs: &Programs,
        primary: &mut Primary,
        site: &Site,
        contender: &Contender,
    ) -> Result<Stage> {
        primary.wait_until(
            Duration::from_secs(60),
            "the last receiver is gone",
            Primary::is_alone,
        )?;
        primary.execute("TRUNCATE sample, bulk")?;
        primary.keep_wal()?;
        let first = primary.flushed()?;
        let directory = site.new_directory()?;
        if contender.program == Program::Standby {
            take_base_backup(programs, primary, directory.path())?;
        }
        site.settle()?;
        Ok(Stage { directory, first })
    }

    /// All that is there is acknowledged, the receiver ends well, and has stored what the primary has.
    fn finish(&self, primary: &mut Primary, contender: &Contender, running: Running) -> Result<()> {
        let acknowledged = running.explain(primary.acknowledged())?;
        running.stop()?;
        if contender.stores_segments() {
            self.check(primary, contender, acknowledged)?;
        }
        Ok(())
    }

    fn check(&self, primary: &Primary, contender: &Contender, acknowledged: u64) -> Result<()> {
        let stored = Stored {
            directory: self.directory.path(),
            pg_wal: &primary.pg_wal(),
            segment_bytes: primary.segment_bytes(),
        };
        let checked = stored.check(self.first, acknowledged);
        checked.map(drop).map_err(|error| {
            error.context(format!(
                "what {} stored is not what the primary has",
                contender.key
            ))
        })
    }
}

/// The median of a few durations, as a measure.
fn elapsed(mut times: Vec<Duration>) -> BTreeMap<Metric, f64> {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    BTreeMap::from([(Metric::ElapsedMs, median.as_secs_f64() * 1e3)])
}
