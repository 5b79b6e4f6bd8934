//! Which method to use, from what was measured.

use serde::Serialize;

use crate::edge::durable_method::Duel;
use crate::ring::durable::Method;

/// Medians that are closer to each other than this are equal.
const NOISE: f64 = 0.05;

/// What was measured for commit-sized writes: medians in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Medians {
    /// A write through the page cache, then fsync.
    pub standard: f64,
    /// One durable write through the page cache.
    pub buffered: f64,
    /// Past the page cache; `None` where there is no direct I/O.
    pub direct: Option<Duel>,
}

/// Which method to use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// `dsync`, `fdatasync` or `buffered`.
    pub method: &'static str,
    /// The option of `receive` that chooses it.
    pub option: &'static str,
    /// How often a write of this method fits into the time of one on the standard path, by medians.
    pub ratio: f64,
    /// Why, in one sentence.
    pub reason: String,
}

/// The recommendation. Without direct I/O there is nothing to choose; otherwise the quicker one of the
/// two methods, and `dsync` if they are even.
pub fn recommend(medians: &Medians) -> Recommendation {
    let (method, option, own, reason) = match medians.direct {
        None => {
            let reason = "this file system has no direct I/O".to_owned();
            ("buffered", "--buffered", medians.buffered, reason)
        }
        Some(duel) => recommend_direct(&duel),
    };
    Recommendation {
        method,
        option,
        // A time is a microsecond at least.
        ratio: medians.standard / own.max(1.0),
        reason,
    }
}

fn recommend_direct(duel: &Duel) -> (&'static str, &'static str, f64, String) {
    let (dsync, fdatasync) = (duel.dsync / 1000.0, duel.fdatasync / 1000.0);
    match duel.winner(NOISE) {
        Some(Method::Fdatasync) => {
            let reason = format!("fdatasync is quicker than dsync, {fdatasync:.3} against {dsync:.3} ms");
            ("fdatasync", "--durable-method=fdatasync", duel.fdatasync, reason)
        }
        winner => {
            let reason = match winner {
                Some(_) => format!("dsync is quicker than fdatasync, {dsync:.3} against {fdatasync:.3} ms"),
                None => format!(
                    "it and fdatasync are even or too close to tell, {dsync:.3} and {fdatasync:.3} ms"
                ),
            };
            ("dsync", "--durable-method=dsync", duel.dsync, reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a hundred rounds the one with the lower median wins nearly all.
    fn with(dsync: f64, fdatasync: f64) -> Recommendation {
        recommend(&Medians {
            standard: 1000.0,
            buffered: 900.0,
            direct: Some(Duel {
                dsync,
                fdatasync,
                rounds: 100,
                fdatasync_won: if fdatasync < dsync { 95 } else { 5 },
            }),
        })
    }

    #[test]
    fn the_quicker_method_is_recommended_and_an_even_result_is_dsyncs() {
        assert_eq!(
            (with(500.0, 800.0).method, with(500.0, 800.0).ratio),
            ("dsync", 2.0)
        );
        assert_eq!(with(800.0, 500.0).option, "--durable-method=fdatasync");
        assert_eq!(with(800.0, 500.0).ratio, 2.0);
        assert_eq!(with(500.0, 480.0).method, "dsync");
        assert_eq!(with(500.0, 470.0).method, "fdatasync");
    }

    #[test]
    fn the_reason_says_which_is_quicker_or_that_they_are_even() {
        assert_eq!(
            with(500.0, 800.0).reason,
            "dsync is quicker than fdatasync, 0.500 against 0.800 ms"
        );
        assert_eq!(
            with(800.0, 500.0).reason,
            "fdatasync is quicker than dsync, 0.500 against 0.800 ms"
        );
        for fdatasync in [480.0, 500.0, 520.0] {
            assert!(
                with(500.0, fdatasync).reason.contains("even or too close"),
                "{fdatasync}"
            );
        }
    }

    #[test]
    fn without_direct_io_it_is_buffered() {
        let recommendation = recommend(&Medians {
            standard: 10.0,
            buffered: 5.0,
            direct: None,
        });
        assert_eq!(
            (recommendation.method, recommendation.option, recommendation.ratio),
            ("buffered", "--buffered", 2.0)
        );
    }
}
