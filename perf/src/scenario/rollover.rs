//! Commits across changes of segment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use postgres::Client;

use super::{Bench, SMALL_SEGMENT_MIB};
use crate::load::{Load, Pace, Sample, Timed};
use crate::results::{Case, Kind, Metric, Run};
use crate::scenario::scene::Scene;
use crate::site::Site;

const ROW: &str = "INSERT INTO sample VALUES ($1::int4, repeat('x', 1000))";
/// Commits so near to a change of segment are looked at.
const NEAR: Duration = Duration::from_millis(100);
/// How often the primary is asked for its segment.
const LOOK: Duration = Duration::from_millis(5);

/// Latencies within 100 ms of a change of segment.
pub fn cases(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    // A slow disk needs more clients to fill a segment in time.
    let clients = if site.is_slow() { 16 } else { 4 };
    let config = bench.primary_of(SMALL_SEGMENT_MIB)?.load_config();
    let mut load = Load::connect(&config, clients, ROW)?;
    let duration = 2 * bench.plan.duration();
    let mut runs = Vec::new();
    for visit in bench.plan.visits(Kind::Rollover, site.is_given()) {
        let warm_up = bench.plan.warm_up();
        runs.push(bench.visit(site, SMALL_SEGMENT_MIB, &visit, |scene| {
            load.run(Pace::Closed, warm_up)?;
            measure(scene, &mut load, duration)
        })?);
    }
    let about = format!(
        "Commits of one row of 1 kB for {} s, segments of 1 MiB; the latencies are those of commits within \
         100 ms of a change of segment, the series has all.",
        duration.as_secs_f64()
    );
    Ok(vec![Case {
        kind: Kind::Rollover,
        clients: Some(clients),
        about,
        runs,
    }])
}

fn measure(scene: &mut Scene, load: &mut Load, duration: Duration) -> Result<Run> {
    let mut client = scene.primary.connect()?;
    let segment_bytes = i64::try_from(scene.primary.segment_bytes())?;
    let is_over = AtomicBool::new(false);
    let before = scene.counters()?;
    let (start, timed, changes) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&mut client, segment_bytes, &is_over));
        let start = Instant::now();
        let timed = load.run(Pace::Closed, duration);
        is_over.store(true, Ordering::Relaxed);
        let changes = watcher
            .join()
            .map_err(|_| anyhow!("the watch on the segments failed"))?;
        anyhow::Ok((start, timed?, changes?))
    })?;
    let since_start = changes
        .iter()
        .map(|change| change.saturating_duration_since(start));
    let changes: Vec<Duration> = since_start.filter(|change| *change < timed.elapsed).collect();
    let near = Timed::new(near(&timed.samples, &changes), timed.elapsed, Pace::Closed);
    let (whole, mut measures) = (timed.measures(), near.measures());
    for (of_whole, metric) in [
        (Metric::Commits, Metric::Commits),
        (Metric::CommitsPerSecond, Metric::CommitsPerSecond),
        (Metric::P999Ms, Metric::WholeP999Ms),
    ] {
        measures.extend(whole.get(&of_whole).map(|value| (metric, *value)));
    }
    measures.insert(Metric::Rollovers, changes.len() as f64);
    measures.extend(scene.costs(&before, timed.samples.len())?);
    let mut run = scene.run(&timed, measures);
    run.latencies = Some(near.encoded());
    run.rollovers_s = changes.iter().map(Duration::as_secs_f64).collect();
    Ok(run)
}

/// The commits that were under way within [`NEAR`] of a change.
fn near(samples: &[Sample], changes: &[Duration]) -> Vec<Sample> {
    let is_near = |sample: &&Sample| {
        let end = sample.at + sample.took;
        changes
            .iter()
            .any(|change| end + NEAR >= *change && sample.at <= *change + NEAR)
    };
    samples.iter().filter(is_near).copied().collect()
}

/// When the primary began a new segment, each time until it is over.
fn watch(client: &mut Client, segment_bytes: i64, is_over: &AtomicBool) -> Result<Vec<Instant>> {
    let query = client.prepare("SELECT div(pg_current_wal_insert_lsn() - '0/0', $1::int8)::int8")?;
    let mut segment = None;
    let mut changes = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let now: i64 = client
            .query_one(&query, &[&segment_bytes])
            .context("ask for the segment")?
            .try_get(0)?;
        if segment.replace(now).is_some_and(|last| last != now) {
            changes.push(Instant::now());
        }
        thread::sleep(LOOK);
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_under_way_near_a_change_are_taken_and_no_others() {
        let ms = Duration::from_millis;
        let sample = |at, took| Sample {
            at: ms(at),
            took: ms(took),
        };
        let samples = [
            sample(0, 399),
            sample(10, 390),
            sample(300, 400),
            sample(600, 1),
            sample(601, 1),
        ];
        let expected = [sample(10, 390), sample(300, 400), sample(600, 1)];
        assert_eq!(near(&samples, &[ms(500)]), expected);
    }
}
