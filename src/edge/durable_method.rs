//! Which method makes a durable write here: the operator's, or the one that is quicker on this disk.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_uring::buf::fixed::FixedBuf;
use tracing::{debug, info};

use super::cli::ReceiveOptions;
use crate::core::demand::DurableMethod;
use crate::core::measure::Times;
use crate::core::writes::Slot;
use crate::error::system_text;
use crate::ring::buffer::Slots;
use crate::ring::durable::Method;
use crate::ring::stop::Stop;
use crate::ring::trial::{Trial, Way, remove_leftovers};

/// So many writes of each method are enough.
const MOST_WRITES: u64 = 32;

/// Fewer writes of a method tell nothing.
const LEAST_WRITES: u64 = 3;

/// The measurement ends after this time at the latest.
const LONGEST: Duration = Duration::from_millis(200);

/// Bytes in the file of each method.
const FILE: u64 = 256 << 10;

/// Medians of so few writes that are closer to each other than this are equal.
const NOISE: f64 = 0.10;

/// The quicker method by its median, which may be in any unit. `noise` is the part of dsync's median by
/// which fdatasync must be below to be called quicker: an even result is dsync's.
pub fn quicker(dsync: f64, fdatasync: f64, noise: f64) -> Method {
    match fdatasync < dsync * (1.0 - noise) {
        true => Method::Fdatasync,
        false => Method::Dsync,
    }
}

/// The method for this process: the operator's, or for commits that wait the one that a short
/// measurement in the directory finds to be quicker. `block` is what a commit writes, in bytes. Must not
/// be called while a stream has the slots.
pub async fn decide(
    options: &ReceiveOptions,
    directory: &Path,
    block: u64,
    slots: &mut Slots,
    stop: &Stop,
) -> Method {
    match options.durable_method {
        DurableMethod::Dsync => return Method::Dsync,
        DurableMethod::Fdatasync => return Method::Fdatasync,
        DurableMethod::Auto => {}
    }
    if !options.synchronous || options.buffered {
        return Method::Dsync;
    }
    match measure(directory, block, slots, stop).await {
        Ok(Some([dsync, fdatasync])) => choose(&dsync, &fdatasync),
        Ok(None) => Method::Dsync,
        Err(error) => {
            let reason = system_text(&error);
            debug!("durable writes use dsync: the disk could not be measured: {reason}");
            Method::Dsync
        }
    }
}

fn choose(dsync: &Times, fdatasync: &Times) -> Method {
    let (dsync, fdatasync) = (dsync.histogram(), fdatasync.histogram());
    let count = dsync.len().min(fdatasync.len());
    if count < LEAST_WRITES {
        debug!("durable writes use dsync: the disk is too slow to be measured at start");
        return Method::Dsync;
    }
    let median = |histogram: &hdrhistogram::Histogram<u64>| histogram.value_at_quantile(0.5) as f64 / 1000.0;
    let (dsync, fdatasync) = (median(dsync), median(fdatasync));
    let measured =
        format!("medians of {count} writes each: dsync {dsync:.3} ms, fdatasync {fdatasync:.3} ms");
    let method = quicker(dsync, fdatasync, NOISE);
    match method {
        Method::Dsync => debug!("durable writes use dsync ({measured})"),
        Method::Fdatasync => info!("durable writes use fdatasync ({measured})"),
    }
    method
}

/// The times of dsync and of fdatasync; `None` if the operator wants the end.
async fn measure(
    directory: &Path,
    block: u64,
    slots: &mut Slots,
    stop: &Stop,
) -> io::Result<Option<[Times; 2]>> {
    remove_leftovers(directory)?;
    let mut trials = Vec::new();
    for (number, method) in [Method::Dsync, Method::Fdatasync].into_iter().enumerate() {
        let trial = Trial::prepare(directory, number, Way::Direct(method), FILE, slots, stop).await?;
        match trial {
            Some(trial) => trials.push((trial, Times::new())),
            None => return Ok(None),
        }
    }
    let mut buffer = slots.take(Slot(0));
    buffer.fill(0x55);
    let (result, mut buffer) = take_turns(&mut trials, buffer, block as usize, stop).await;
    buffer.fill(0);
    slots.put(Slot(0), buffer);
    result?;
    let mut times = trials.into_iter().map(|(_, times)| times);
    Ok(times.next().zip(times.next()).map(<[Times; 2]>::from))
}

/// One write of each method a round, each round in the other order. The first round does not count.
async fn take_turns(
    trials: &mut [(Trial, Times)],
    mut buffer: FixedBuf,
    length: usize,
    stop: &Stop,
) -> (io::Result<()>, FixedBuf) {
    let began = Instant::now();
    for round in 0..=MOST_WRITES {
        trials.reverse();
        for (trial, times) in trials.iter_mut() {
            if stop.is_requested() || began.elapsed() >= LONGEST {
                break;
            }
            let (took, returned) = trial.write(buffer, length).await;
            buffer = returned;
            match took {
                Ok(took) if round > 0 => times.record(took),
                Ok(_) => {}
                Err(error) => return (Err(error), buffer),
            }
        }
    }
    trials.sort_by_key(|(trial, _)| trial.way() != Way::Direct(Method::Dsync));
    (Ok(()), buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(count: u64, microseconds: u64) -> Times {
        let mut times = Times::new();
        for _ in 0..count {
            times.record(Duration::from_micros(microseconds));
        }
        times
    }

    #[test]
    fn only_what_is_clearly_quicker_takes_the_place_of_dsync() {
        for (dsync, fdatasync, expected) in [
            (100.0, 100.0, Method::Dsync),
            (100.0, 96.0, Method::Dsync),
            (100.0, 94.0, Method::Fdatasync),
            (100.0, 500.0, Method::Dsync),
            (0.0, 0.0, Method::Dsync),
        ] {
            assert_eq!(quicker(dsync, fdatasync, 0.05), expected, "{dsync} {fdatasync}");
        }
    }

    #[test]
    fn few_writes_decide_nothing() {
        assert_eq!(choose(&times(32, 900), &times(32, 300)), Method::Fdatasync);
        assert_eq!(choose(&times(32, 900), &times(32, 850)), Method::Dsync);
        assert_eq!(choose(&times(2, 900), &times(32, 300)), Method::Dsync);
        assert_eq!(choose(&times(32, 900), &times(0, 300)), Method::Dsync);
    }
}
