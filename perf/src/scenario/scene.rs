//! A receiver that runs, and a load on it that is measured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::interrupt;
use crate::load::{Load, Pace, Timed};
use crate::observe::{self, Device, Trace, Usage};
use crate::plan::Visit;
use crate::primary::Primary;
use crate::receiver::Program;
use crate::results::{Metric, Run};
use crate::site::Site;

/// Of the latencies over time.
const SPAN: Duration = Duration::from_millis(50);

/// A receiver that commits wait for.
pub struct Scene<'a> {
    /// Where it receives from.
    pub primary: &'a mut Primary,
    /// Where it writes to.
    pub site: &'a Site,
    /// Which it is.
    pub visit: &'a Visit,
    /// The process that is measured.
    pub observed: u32,
}

/// What is read before and after a run.
pub struct Counters {
    usage: Usage,
    written: Option<Device>,
    flushed: u64,
}

impl Scene<'_> {
    /// Commits for so long, and what it cost.
    pub fn timed(
        &mut self,
        load: &mut Load,
        pace: Pace,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<Run> {
        interrupt::check()?;
        load.run(pace, warm_up)?;
        let before = self.counters()?;
        let timed = load.run(pace, duration)?;
        let mut measures = timed.measures();
        measures.extend(self.costs(&before, timed.samples.len())?);
        Ok(self.run(&timed, measures))
    }

    /// A run of this visit.
    pub fn run(&self, timed: &Timed, measures: BTreeMap<Metric, f64>) -> Run {
        Run {
            latencies: Some(timed.encoded()),
            series: timed.series(SPAN),
            ..self.bare_run(measures)
        }
    }

    /// A run of this visit that has no latencies.
    pub fn bare_run(&self, measures: BTreeMap<Metric, f64>) -> Run {
        self.visit.run(measures)
    }

    /// For [`Scene::costs`].
    pub fn counters(&mut self) -> Result<Counters> {
        Ok(Counters {
            usage: observe::usage(self.observed)?,
            written: self.site.written(),
            flushed: self.primary.flushed()?,
        })
    }

    /// What so many commits have cost since `before`.
    pub fn costs(&mut self, before: &Counters, commits: usize) -> Result<BTreeMap<Metric, f64>> {
        let after = self.counters()?;
        let mut costs = BTreeMap::from([(Metric::PeakMib, after.usage.peak_kib as f64 / 1024.0)]);
        if commits == 0 {
            return Ok(costs);
        }
        let commits = commits as f64;
        let used = after.usage.since(&before.usage);
        costs.insert(Metric::CpuUsPerCommit, used.cpu.as_secs_f64() * 1e6 / commits);
        costs.insert(Metric::SwitchesPerCommit, used.switches as f64 / commits);
        let stores = self.visit.contender.program != Program::Floor;
        if let (true, Some(from), Some(to)) = (stores, &before.written, &after.written) {
            let flushes = to.flushes.saturating_sub(from.flushes);
            if flushes > 0 {
                costs.insert(Metric::CommitsPerFlush, commits / flushes as f64);
            }
            let wal_bytes = after.flushed.saturating_sub(before.flushed).max(1);
            let written = to.bytes_written.saturating_sub(from.bytes_written);
            costs.insert(Metric::DiskBytesPerWalByte, written as f64 / wal_bytes as f64);
        }
        Ok(costs)
    }

    /// System calls for each commit of a short load that is not timed, or why they cannot be counted.
    pub fn system_calls(
        &self,
        load: &mut Load,
        duration: Duration,
    ) -> Result<std::result::Result<f64, String>> {
        let mut commits = 0;
        let traced = observe::trace(self.observed, || {
            commits = load.run(Pace::Closed, duration)?.samples.len();
            Ok(())
        })?;
        Ok(match traced {
            Trace::Calls(calls) => Ok(calls as f64 / commits.max(1) as f64),
            Trace::Refused(reason) => Err(reason),
        })
    }
}
