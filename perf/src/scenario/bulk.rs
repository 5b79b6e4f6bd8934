//! Small commits beside a bulk load.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use postgres::Client;

use super::{Bench, SEGMENT_MIB};
use crate::interrupt;
use crate::load::{Load, Pace, Sample, Timed};
use crate::results::{Case, Kind, Metric, Run};
use crate::scenario::scene::Scene;
use crate::site::Site;

const CLIENTS: u32 = 4;
const ROW: &str = "INSERT INTO sample VALUES ($1::int4, repeat('x', 100))";
/// One transaction of the bulk load: about 8 MiB of WAL.
const BATCH: &str =
    "INSERT INTO bulk SELECT number, repeat('y', 950) FROM generate_series(1, 8192) AS number";
const BATCHES: u32 = 8;
/// The load runs in pieces of this length, until the bulk load is done.
const PIECE: Duration = Duration::from_millis(500);

/// The bulk load is the same work for all: a faster receiver does not get more of it.
pub fn cases(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    let config = bench.primary_of(SEGMENT_MIB)?.load_config();
    let mut load = Load::connect(&config, CLIENTS, ROW)?;
    let batches = if bench.plan.is_quick { 2 } else { BATCHES };
    let mut runs = Vec::new();
    for visit in bench.plan.visits(Kind::Bulk, site.is_given()) {
        let warm_up = bench.plan.warm_up();
        runs.push(bench.visit(site, SEGMENT_MIB, &visit, |scene| {
            load.run(Pace::Closed, warm_up)?;
            measure(scene, &mut load, batches)
        })?);
    }
    let about = format!(
        "{CLIENTS} clients commit single rows of 100 bytes while another loads {} MiB in {batches} transactions, \
         each as soon as the last is acknowledged; the latencies are those of the small commits, the wall time \
         is the bulk load's.",
        batches * 8
    );
    Ok(vec![Case {
        kind: Kind::Bulk,
        clients: Some(CLIENTS),
        about,
        runs,
    }])
}

fn measure(scene: &mut Scene, load: &mut Load, batches: u32) -> Result<Run> {
    let mut client = scene.primary.connect()?;
    client.batch_execute("SET statement_timeout = '60s'")?;
    let before = scene.counters()?;
    let start = Instant::now();
    let (samples, bulk) = thread::scope(|scope| {
        let bulk = scope.spawn(|| load_bulk(&mut client, batches));
        let mut samples = Vec::new();
        while !bulk.is_finished() {
            interrupt::check()?;
            let from = start.elapsed();
            let piece = load.run(Pace::Closed, PIECE)?;
            samples.extend(piece.samples.into_iter().map(|one| Sample {
                at: from + one.at,
                ..one
            }));
        }
        let bulk = bulk.join().map_err(|_| anyhow!("the bulk load failed"))?;
        anyhow::Ok((samples, bulk?))
    })?;
    let costs = scene.costs(&before, samples.len())?;
    let (from, to) = (bulk.0.duration_since(start), bulk.1.duration_since(start));
    let beside = samples
        .into_iter()
        .filter(|sample| sample.at + sample.took >= from && sample.at <= to);
    let timed = Timed::new(beside.collect(), to, Pace::Closed);
    let mut measures = timed.measures();
    measures.insert(Metric::WallS, (to - from).as_secs_f64());
    measures.extend(costs.into_iter().filter(|(metric, _)| *metric == Metric::PeakMib));
    Ok(scene.run(&timed, measures))
}

/// Returns when it began and when it was done.
fn load_bulk(client: &mut Client, batches: u32) -> Result<(Instant, Instant)> {
    let start = Instant::now();
    for _ in 0..batches {
        client.batch_execute(BATCH)?;
    }
    Ok((start, Instant::now()))
}
