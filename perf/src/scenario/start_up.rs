//! From the start of the process to the first acknowledgement.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::{Bench, SEGMENT_MIB, Stage, elapsed};
use crate::plan::Visit;
use crate::receiver::Way;
use crate::results::{Case, Kind};
use crate::site::Site;

/// A commit is waiting when the receiver starts.
pub fn cases(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    let mut runs = Vec::new();
    for visit in bench.plan.visits(Kind::StartUp, site.is_given()) {
        bench.plan.begin(site.key(), &visit);
        let mut times = Vec::new();
        for _ in 0..if bench.plan.is_quick { 1 } else { 3 } {
            times.push(start_once(bench, site, &visit)?);
        }
        runs.push(visit.run(elapsed(times)));
    }
    let about = "From the start of the process, on an empty directory, to the end of a commit that waits for it; \
                 the median of three.";
    Ok(vec![Case {
        kind: Kind::StartUp,
        clients: None,
        about: about.to_owned(),
        runs,
    }])
}

fn start_once(bench: &mut Bench, site: &Site, visit: &Visit) -> Result<Duration> {
    let programs = bench.programs;
    let primary = bench.primary_of(SEGMENT_MIB)?;
    let contender = &visit.contender;
    let stage = Stage::prepare(programs, primary, site, contender)?;
    let mut client = primary.connect()?;
    let commit = std::thread::spawn(move || {
        client
            .batch_execute("INSERT INTO sample VALUES (0, 'first')")
            .map(|()| Instant::now())
    });
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    primary.wait_until(Duration::from_secs(60), "a commit waits", |primary| {
        primary.value(waiting)
    })?;
    let start = Instant::now();
    let mut running = contender.start(programs, primary, stage.directory.path(), Way::Live)?;
    running.wait_until_synchronous(primary)?;
    let limit = Duration::from_secs(30);
    let done = primary.wait_until(limit, "the first commit is acknowledged", |_| {
        Ok(commit.is_finished())
    });
    running.explain(done)?;
    let end = commit
        .join()
        .map_err(|_| anyhow!("the commit failed"))?
        .context("the commit that waits")?;
    stage.finish(primary, contender, running)?;
    Ok(end - start)
}
