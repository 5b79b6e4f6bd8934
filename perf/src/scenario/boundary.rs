//! A commit whose record ends exactly on a segment's end.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::{Bench, SMALL_SEGMENT_MIB, elapsed};
use crate::primary::Primary;
use crate::results::{Case, Kind};
use crate::scenario::scene::Scene;
use crate::site::Site;

/// Bytes in a page of WAL.
const PAGE: u64 = 8192;
/// What all pages but the first of a segment begin with, bytes.
const PAGE_HEAD: u64 = 24;
/// The message of the pilot. Longer ones have a head of the same length.
const PILOT: u64 = 400;
/// Of other messages, head and prefix at most, bytes.
const MESSAGE_HEAD: u64 = 100;
/// Something else may write WAL in between: then it is tried again.
const ATTEMPTS: u32 = 20;

/// Some receivers notice such a commit only when something else comes, or their status is due.
pub fn cases(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    let mut runs = Vec::new();
    for visit in bench.plan.visits(Kind::Boundary, site.is_given()) {
        let tries = bench.plan.tries(&visit);
        runs.push(bench.visit(site, SMALL_SEGMENT_MIB, &visit, |scene| {
            let times = (0..tries)
                .map(|_| commit_on_boundary(scene))
                .collect::<Result<Vec<_>>>()?;
            Ok(visit.run(elapsed(times)))
        })?);
    }
    let about = "One commit whose record ends exactly on a segment's end, and nothing after it; segments of 1 MiB, \
                 the receivers' status interval as it is by default.";
    Ok(vec![Case {
        kind: Kind::Boundary,
        clients: None,
        about: about.to_owned(),
        runs,
    }])
}

fn commit_on_boundary(scene: &mut Scene) -> Result<Duration> {
    for _ in 0..ATTEMPTS {
        if let Some(took) = attempt(scene.primary)? {
            return Ok(took);
        }
    }
    bail!(
        "no commit could be made to end on a segment's end in {ATTEMPTS} attempts: something else writes WAL"
    )
}

/// `None` if the commit ended elsewhere.
fn attempt(primary: &mut Primary) -> Result<Option<Duration>> {
    let end = fill_to_last_page(primary)?;
    let at = inserted(primary)?;
    primary.execute(&commit_of(PILOT))?;
    let pilot = inserted(primary)? - at;
    let left = end.saturating_sub(at + pilot);
    // A record's length is a multiple of 8, so one that is longer by a multiple of 8 takes just that more.
    let Some(longer) = left.checked_sub(pilot).filter(|longer| longer % 8 == 0) else {
        return Ok(None);
    };
    let statement = commit_of(PILOT + longer);
    let mut client = primary.connect()?;
    let commit = std::thread::spawn(move || {
        let start = Instant::now();
        client.batch_execute(&statement).map(|()| start.elapsed())
    });
    let mut ended = 0;
    primary.wait_until(Duration::from_secs(60), "the commit is flushed", |primary| {
        ended = primary.flushed()?;
        Ok(ended >= end || commit.is_finished())
    })?;
    primary.wait_until(Duration::from_secs(60), "the commit is acknowledged", |_| {
        Ok(commit.is_finished())
    })?;
    let took = commit.join().map_err(|_| anyhow!("the commit failed"))??;
    Ok((ended == end).then_some(took))
}

/// Fills the segment up to its last page, with room there for the pilot and the commit. Returns its end.
fn fill_to_last_page(primary: &mut Primary) -> Result<u64> {
    loop {
        let at = inserted(primary)?;
        let end = at.next_multiple_of(primary.segment_bytes());
        if end - at < PAGE - PAGE_HEAD && end - at > 4 * PILOT {
            return Ok(end);
        }
        // Too near to the end: over it, into the next.
        let to = if end - at < PAGE {
            end + PAGE
        } else {
            end - PAGE / 2
        };
        let pages = (to - at) / PAGE;
        let length = (to - at).saturating_sub(pages * PAGE_HEAD + MESSAGE_HEAD).max(1);
        primary.execute(&format!(
            "SELECT pg_logical_emit_message(false, 'p', repeat('x', {length}))"
        ))?;
    }
}

/// A transaction of one message, which is acknowledged.
fn commit_of(length: u64) -> String {
    format!("SELECT pg_logical_emit_message(true, 'p', repeat('x', {length}))")
}

fn inserted(primary: &mut Primary) -> Result<u64> {
    primary.position("pg_current_wal_insert_lsn()")
}
