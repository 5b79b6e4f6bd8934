//! Commits of one row: each client the next as soon as the last is done, and at a set rate.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Bench, SEGMENT_MIB};
use crate::load::{Load, Pace};
use crate::results::{BASELINE, Case, Kind, Metric};
use crate::site::Site;

/// One row, of which 100 bytes are its payload.
const ROW: &str = "INSERT INTO sample VALUES ($1::int4, repeat('x', 100))";
/// The open loop's clients, and those whose rate it halves.
const OPEN_CLIENTS: u32 = 16;

/// The clients of a case, and what is known of it so far.
struct Column {
    clients: u32,
    load: Load,
    case: Case,
}

/// Commits in a closed loop, a case for each number of clients.
pub fn closed(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    let config = bench.primary_of(SEGMENT_MIB)?.load_config();
    let mut columns = Vec::new();
    for &clients in &bench.plan.clients {
        columns.push(Column {
            clients,
            load: Load::connect(&config, clients, ROW)?,
            case: Case {
                kind: Kind::Commit,
                clients: Some(clients),
                about: format!(
                    "Commits of one row of 100 bytes for {} s after a short warm-up, segments of 16 MiB; \
                     system calls in a run of their own.",
                    bench.plan.seconds
                ),
                runs: Vec::new(),
            },
        });
    }
    for visit in bench.plan.visits(Kind::Commit, site.is_given()) {
        let (warm_up, duration) = (bench.plan.warm_up(), bench.plan.duration());
        let numbers: Vec<u32> = bench.plan.clients_of(&visit.contender).collect();
        let mut untraced = None;
        bench.visit(site, SEGMENT_MIB, &visit, |scene| {
            let mut used: Vec<&mut Column> = columns
                .iter_mut()
                .filter(|one| numbers.contains(&one.clients))
                .collect();
            for column in &mut used {
                let run = scene.timed(&mut column.load, Pace::Closed, warm_up, duration)?;
                column.case.runs.push(run);
            }
            if !visit.is_last {
                return Ok(());
            }
            for column in used {
                let calls = scene.system_calls(&mut column.load, duration.min(Duration::from_millis(400)))?;
                let run = column
                    .case
                    .runs
                    .last_mut()
                    .context("the run that was just made")?;
                match calls {
                    Ok(calls) => drop(run.measures.insert(Metric::SyscallsPerCommit, calls)),
                    Err(reason) => untraced = Some(reason),
                }
            }
            Ok(())
        })?;
        if let Some(reason) = untraced {
            bench
                .plan
                .skip(format!("System calls were not counted: {reason}."));
        }
    }
    let cases: Vec<Case> = columns.into_iter().map(|column| column.case).collect();
    if let Some(rate) = cases
        .iter()
        .find(|case| case.clients == Some(OPEN_CLIENTS))
        .and_then(baseline_rate)
    {
        bench.rates.insert(site.key().to_owned(), rate / 2.0);
    }
    Ok(cases)
}

/// Commits at half the rate that the baseline reaches with as many clients.
pub fn open(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    let config = bench.primary_of(SEGMENT_MIB)?.load_config();
    let mut load = Load::connect(&config, OPEN_CLIENTS, ROW)?;
    let per_second = match bench.rates.get(site.key()) {
        Some(&rate) => rate,
        None => half_of_baseline(bench, site, &mut load)?,
    };
    let mut runs = Vec::new();
    for visit in bench.plan.visits(Kind::OpenLoop, site.is_given()) {
        let (warm_up, duration) = (bench.plan.warm_up(), bench.plan.duration());
        let pace = Pace::Open { per_second };
        runs.push(bench.visit(site, SEGMENT_MIB, &visit, |scene| {
            scene.timed(&mut load, pace, warm_up, duration)
        })?);
    }
    Ok(vec![Case {
        kind: Kind::OpenLoop,
        clients: Some(OPEN_CLIENTS),
        about: format!(
            "{per_second:.0} commits of one row a second for {} s, at random moments that are the same for all; \
             half of what pg_receivewal reached with as many clients. Timed from when each was due.",
            bench.plan.seconds
        ),
        runs,
    }])
}

/// Half of the rate of a short run of the baseline, commits a second.
fn half_of_baseline(bench: &mut Bench, site: &Site, load: &mut Load) -> Result<f64> {
    let visits = bench.plan.visits(Kind::OpenLoop, site.is_given());
    let visit = visits.into_iter().find(|visit| visit.contender.key == BASELINE);
    let visit =
        visit.context("the open loop's rate is half of pg_receivewal's: it must be among the receivers")?;
    let (warm_up, duration) = (bench.plan.warm_up(), bench.plan.duration());
    let run = bench.visit(site, SEGMENT_MIB, &visit, |scene| {
        scene.timed(load, Pace::Closed, warm_up, duration)
    })?;
    let rate = run
        .measures
        .get(&Metric::CommitsPerSecond)
        .context("no commits")?;
    Ok(rate / 2.0)
}

/// The median rate of the baseline, commits a second.
fn baseline_rate(case: &Case) -> Option<f64> {
    let runs = case.runs.iter().filter(|run| run.receiver == BASELINE);
    let mut rates: Vec<f64> = runs
        .filter_map(|run| run.measures.get(&Metric::CommitsPerSecond).copied())
        .collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}
