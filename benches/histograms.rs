//! What it costs to measure a transaction: its two times, the flush that made it durable, and the way to the
//! histograms, which other threads read.
//!
//!     cargo bench --bench histograms              everything
//!     cargo test --bench '*'                      each once, to see that it works

mod common;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use walring::core::measure::{Measure, Times};
use walring::core::telemetry::{Recorder, Telemetry};

/// Times as commits have them: spread over a few milliseconds.
fn times() -> Vec<Duration> {
    let mut rng = fastrand::Rng::with_seed(1);
    let times = std::iter::repeat_with(|| Duration::from_micros(rng.u64(200..5000)));
    times.take(1024).collect()
}

fn record(criterion: &mut Criterion) {
    let times = times();
    let mut group = common::group(criterion, "histogram", Throughput::Elements(times.len() as u64));
    let mut histogram = Times::new();
    histogram.record(times[0]);
    assert_eq!(histogram.histogram().len(), 1);
    group.bench_function("record", |bencher| {
        bencher.iter(|| times.iter().for_each(|&time| histogram.record(black_box(time))));
    });
    group.finish();
}

fn measure(criterion: &mut Criterion) {
    let times = times();
    let telemetry = Telemetry::default();
    let mut recorder = Recorder::new();
    let mut transaction = |time| {
        for measure in [
            Measure::DurableWrite(time),
            Measure::Flush {
                transactions: 1,
                bytes: 300,
                took: time,
            },
            Measure::Durable(time),
            Measure::Acknowledged(time),
            Measure::Commit(time),
        ] {
            recorder.record(&telemetry, black_box(measure));
        }
        recorder.settle(&telemetry);
    };
    transaction(times[0]);
    assert_eq!(telemetry.measures().acknowledged.histogram().len(), 1);
    let mut group = common::group(criterion, "telemetry", Throughput::Elements(times.len() as u64));
    group.bench_function("a transaction", |bencher| {
        bencher.iter(|| times.iter().for_each(|&time| transaction(black_box(time))));
    });
    group.finish();
}

criterion_group!(benches, record, measure);
criterion_main!(benches);
