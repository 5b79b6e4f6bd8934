//! What a run of a load has timed, and what can be said about it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

use crate::load::Pace;
use crate::results::{Metric, Point};

/// The longest latency a histogram tells from longer ones, ns; no commit takes as long (`LIMIT`).
const LONGEST_NS: u64 = 60_000_000_000;

/// One commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it began, from the run's start; in the open loop, when it was due.
    pub at: Duration,
    /// How long it took from there.
    pub took: Duration,
}

/// What a run has timed.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Latencies in ns, 3 significant digits.
    pub latencies: Histogram<u64>,
    /// The same, corrected for coordinated omission.
    ///
    /// In the closed loop each latency `t` that is longer than the run's median `m` stands for the
    /// commits that its client would have begun meanwhile, one each `m`: `t - m`, `t - 2m` and so on are
    /// recorded as well (HdrHistogram's `record_correct`). In the open loop nothing is omitted, and
    /// this equals [`Timed::latencies`].
    pub corrected: Histogram<u64>,
    /// Every commit, in the order they began or were due.
    pub samples: Vec<Sample>,
    /// From the run's start to the end of its last commit.
    pub elapsed: Duration,
}

impl Timed {
    /// Sorts and counts what was timed.
    pub fn new(mut samples: Vec<Sample>, elapsed: Duration, pace: Pace) -> Timed {
        samples.sort_by_key(|sample| sample.at);
        let mut latencies = histogram();
        for sample in &samples {
            latencies.saturating_record(nanoseconds(sample.took));
        }
        let corrected = match pace {
            Pace::Open { .. } => latencies.clone(),
            Pace::Closed => corrected(&samples, latencies.value_at_quantile(0.5)),
        };
        Timed {
            latencies,
            corrected,
            samples,
            elapsed,
        }
    }

    /// Commits, commits a second and the latencies; only the first two if there was no commit.
    pub fn measures(&self) -> BTreeMap<Metric, f64> {
        let commits = self.samples.len() as f64;
        let per_second = commits / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let mut measures =
            BTreeMap::from([(Metric::Commits, commits), (Metric::CommitsPerSecond, per_second)]);
        if !self.samples.is_empty() {
            let at = |quantile| milliseconds(self.latencies.value_at_quantile(quantile));
            let total: Duration = self.samples.iter().map(|sample| sample.took).sum();
            let longest = self.samples.iter().map(|sample| sample.took).max();
            measures.extend([
                (Metric::MeanMs, total.as_secs_f64() * 1e3 / commits),
                (Metric::P50Ms, at(0.5)),
                (Metric::P90Ms, at(0.9)),
                (Metric::P99Ms, at(0.99)),
                (Metric::P999Ms, at(0.999)),
                (Metric::MaxMs, longest.unwrap_or_default().as_secs_f64() * 1e3),
                (
                    Metric::CorrectedP99Ms,
                    milliseconds(self.corrected.value_at_quantile(0.99)),
                ),
            ]);
        }
        measures
    }

    /// [`Timed::latencies`] as HdrHistogram V2 with DEFLATE, in base64.
    pub fn encoded(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.latencies, &mut bytes)
            .expect("writing to memory does not fail");
        STANDARD.encode(bytes)
    }

    /// The commits by when they began, a point for each `span` in which one did.
    pub fn series(&self, span: Duration) -> Vec<Point> {
        let span_ns = span.as_nanos().max(1);
        let index = |sample: &Sample| sample.at.as_nanos() / span_ns;
        let spans = self.samples.chunk_by(|one, next| index(one) == index(next));
        spans
            .map(|samples| {
                let mut took: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
                took.sort_unstable();
                Point {
                    at_s: (index(&samples[0]) * span_ns) as f64 / 1e9,
                    commits: took.len() as u32,
                    p50_ms: took[(took.len() - 1) / 2].as_secs_f64() * 1e3,
                    max_ms: took[took.len() - 1].as_secs_f64() * 1e3,
                }
            })
            .collect()
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("these bounds are valid")
}

fn corrected(samples: &[Sample], interval_ns: u64) -> Histogram<u64> {
    let mut corrected = histogram();
    for sample in samples {
        let value = nanoseconds(sample.took).min(LONGEST_NS);
        corrected
            .record_correct(value, interval_ns)
            .expect("the value is within the bounds");
    }
    corrected
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;

    /// A client whose commits take 1 ms, and one in the middle `stall_ms`.
    fn stalled(stall_ms: u64, pace: Pace) -> Timed {
        let mut at = Duration::ZERO;
        let mut samples = Vec::new();
        for number in 0..1000 {
            let took = Duration::from_millis(if number == 500 { stall_ms } else { 1 });
            samples.push(Sample { at, took });
            at += took;
        }
        samples.reverse();
        Timed::new(samples, at, pace)
    }

    #[test]
    fn a_stall_weighs_as_much_as_the_commits_it_kept_from_beginning() {
        let measures = stalled(1000, Pace::Closed).measures();
        let of = |metric| measures[&metric];
        assert_eq!(of(Metric::Commits), 1000.0);
        assert!((of(Metric::P99Ms) - 1.0).abs() < 0.01, "{measures:?}");
        assert!((of(Metric::CorrectedP99Ms) - 980.0).abs() < 10.0, "{measures:?}");
        assert_eq!(of(Metric::MaxMs), 1000.0);
        assert!((of(Metric::MeanMs) - 1.999).abs() < 1e-6);
        assert!((of(Metric::CommitsPerSecond) - 1000.0 / 1.999).abs() < 1e-6);
        let open = stalled(1000, Pace::Open { per_second: 1.0 });
        assert_eq!(open.corrected, open.latencies);
    }

    #[test]
    fn a_run_without_commits_has_no_latencies() {
        let none = Timed::new(Vec::new(), Duration::from_secs(1), Pace::Closed);
        let expected = BTreeMap::from([(Metric::Commits, 0.0), (Metric::CommitsPerSecond, 0.0)]);
        assert_eq!(none.measures(), expected);
        assert!(none.series(Duration::from_secs(1)).is_empty());
    }

    #[test]
    fn the_histogram_survives_its_text() {
        let timed = stalled(70_000, Pace::Closed);
        let bytes = STANDARD.decode(timed.encoded()).unwrap();
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(read, timed.latencies);
        assert_eq!(read.len(), 1000);
    }

    #[test]
    fn the_series_has_a_point_for_each_span_with_a_commit() {
        let series = stalled(300, Pace::Closed).series(Duration::from_millis(100));
        let starts: Vec<f64> = series.iter().map(|point| point.at_s).collect();
        assert_eq!(starts[..7], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8]);
        assert_eq!((series[0].commits, series[5].commits), (100, 1));
        assert_eq!((series[0].p50_ms, series[5].max_ms), (1.0, 300.0));
        assert_eq!(series.iter().map(|point| point.commits).sum::<u32>(), 1000);
    }
}
