//! A receiver that was away receives finished segments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};

use super::{Bench, SEGMENT_MIB, Stage};
use crate::load::{Load, Pace};
use crate::observe;
use crate::plan::Visit;
use crate::primary::Primary;
use crate::receiver::{Program, Way};
use crate::results::{Case, Kind, Metric, Run};
use crate::site::Site;
use crate::stored::segment_name;

const GIB: f64 = (1_u64 << 30) as f64;
const MIB: u64 = 1 << 20;
/// How often the peak of the memory is read.
const LOOK: Duration = Duration::from_millis(20);
/// A catch-up is given up after so long.
const LIMIT: Duration = Duration::from_secs(600);

/// What is received: finished segments, which a slot holds.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    first: u64,
    end: u64,
}

/// The same segments for all, into a directory that holds only the one before them.
pub fn cases(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    let wanted = if bench.plan.is_quick { 32 * MIB } else { 1024 * MIB };
    let range = match bench.catch_up {
        Some(range) => range,
        None => {
            eprintln!("producing {} MiB of WAL", wanted / MIB);
            let produced = produce(bench.primary_of(SEGMENT_MIB)?, wanted)?;
            *bench.catch_up.insert(produced)
        }
    };
    let mut runs = Vec::new();
    for visit in bench.plan.visits(Kind::CatchUp, site.is_given()) {
        bench.plan.begin(site.key(), &visit);
        runs.push(receive(bench, site, &visit, range)?);
    }
    let about = format!(
        "{} MiB of finished segments (up to an eighth short transactions, the rest loaded with COPY), without --synchronous, \
         from the start of the process to its end.",
        (range.end - range.first) / MIB
    );
    Ok(vec![Case {
        kind: Kind::CatchUp,
        clients: None,
        about,
        runs,
    }])
}

/// Short transactions for an eighth, then bulk loads until there is enough.
fn produce(primary: &mut Primary, wanted: u64) -> Result<Range> {
    primary.execute("SELECT pg_create_physical_replication_slot('catch_up', true)")?;
    primary.execute("INSERT INTO sample VALUES (0, 'so that the last segment is not empty')")?;
    let first = primary.switch_segment()?;
    let config = format!("{} options='-c synchronous_commit=off'", primary.load_config());
    let mut load = Load::connect(
        &config,
        4,
        "INSERT INTO sample VALUES ($1::int4, repeat('x', 100))",
    )?;
    let short = Instant::now();
    while primary.flushed()? < first + wanted / 8 && short.elapsed() < Duration::from_secs(5) {
        load.run(Pace::Closed, Duration::from_millis(200))?;
    }
    let rows = primary.pg_wal().with_file_name("rows").display().to_string();
    primary.execute(&format!(
        "COPY (SELECT number, repeat('y', 200) FROM generate_series(1, 30000) AS number) TO '{rows}'"
    ))?;
    while primary.flushed()? < first + wanted {
        primary.execute(&format!("COPY bulk FROM '{rows}'"))?;
    }
    let end = primary.switch_segment()?;
    primary.execute("TRUNCATE sample, bulk")?;
    Ok(Range { first, end })
}

fn receive(bench: &mut Bench, site: &Site, visit: &Visit, range: Range) -> Result<Run> {
    let programs = bench.programs;
    let primary = bench.primary_of(SEGMENT_MIB)?;
    let contender = &visit.contender;
    let stage = Stage::prepare(programs, primary, site, contender)?;
    let directory = stage.directory.path();
    let before = segment_name(range.first / primary.segment_bytes() - 1, primary.segment_bytes());
    std::fs::copy(primary.pg_wal().join(&before), directory.join(&before))
        .context("copy the segment before the range")?;
    site.settle()?;
    let stage = Stage {
        first: range.first,
        ..stage
    };
    let used = children_cpu()?;
    let start = Instant::now();
    // It ends behind the message that goes beyond this position: the last of the last segment.
    let way = Way::Range {
        first: range.first,
        last: range.end - 1,
    };
    let mut running = contender.start(programs, primary, stage.directory.path(), way)?;
    let pid = running.observed()?;
    let (mut peak_kib, mut looked) = (0, start);
    let ended = running.wait_with(LIMIT, || {
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            peak_kib = observe::usage(pid).map_or(peak_kib, |usage| usage.peak_kib.max(peak_kib));
        }
    });
    let wall_s = start.elapsed().as_secs_f64();
    running.explain(ended)?;
    let cpu_s = (children_cpu()? - used).as_secs_f64();
    std::fs::remove_file(stage.directory.path().join(before))?;
    if contender.program != Program::Floor {
        stage.check(primary, contender, range.end)?;
    }
    let bytes = (range.end - range.first) as f64;
    let mut measures = BTreeMap::from([
        (Metric::WallS, wall_s),
        (Metric::MibPerSecond, bytes / MIB as f64 / wall_s),
        (Metric::CpuSPerGib, cpu_s / (bytes / GIB)),
    ]);
    if peak_kib > 0 {
        measures.insert(Metric::PeakMib, peak_kib as f64 / 1024.0);
    }
    Ok(visit.run(measures))
}

/// CPU time of the children that have ended: while one runs nothing else is started.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(microseconds(usage.user_time()) + microseconds(usage.system_time()))
}
