//! From values to places on an axis.

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// Equal differences are equally wide.
    Linear,
    /// Equal ratios are equally wide.
    Log,
    /// Both ways from zero: about linear below the unit, logarithmic above it.
    Signed {
        /// Where the one goes over into the other.
        unit: f64,
    },
    /// Shares below 1; each nine more (0.9, 0.99, 0.999) is equally wide.
    Nines,
}

/// An axis: a scale and the range it shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

/// The share of commits that the charts over percentiles end with.
pub const LAST_SHARE: f64 = 0.9999;

impl Axis {
    /// Of shares up to [`LAST_SHARE`], or up to a smaller one.
    pub fn nines(to: f64) -> Axis {
        Axis {
            scale: Scale::Nines,
            from: 0.0,
            to: to.clamp(0.9, LAST_SHARE),
        }
    }

    /// Linear, exactly from `from` to `to`.
    pub fn exactly(from: f64, to: f64) -> Axis {
        Axis {
            scale: Scale::Linear,
            from,
            to: if to > from { to } else { from + 1.0 },
        }
    }

    /// Logarithmic over the values above zero; widened to 1, 2 or 5 times a power of ten.
    pub fn log(values: impl Iterator<Item = f64>) -> Axis {
        let (from, to) = range(values.filter(|value| *value > 0.0));
        let (from, to) = if from > 0.0 { (from, to) } else { (0.1, 10.0) };
        let (from, to) = (nice_below(from), nice_above(to));
        Axis {
            scale: Scale::Log,
            from,
            to: if to > from { to } else { from * 10.0 },
        }
    }

    /// Logarithmic both ways from zero, over the values and zero, so that tenths and hundreds are both seen.
    pub fn signed(values: impl Iterator<Item = f64>) -> Axis {
        let (from, to) = range(values.chain([0.0]));
        let reach = to.max(-from);
        let reach = if reach > 0.0 { reach } else { 1.0 };
        let unit = 10f64.powf((reach / 300.0).log10().ceil());
        let above = if to > 0.0 { nice_above(to.max(unit)) } else { 0.0 };
        let below = if from < 0.0 {
            -nice_above(-from.min(-unit))
        } else {
            0.0
        };
        Axis {
            scale: Scale::Signed { unit },
            from: below,
            to: if above > below { above } else { unit },
        }
    }

    /// Where a value lies: 0 at the start of the axis, 1 at its end; values outside lie on the nearer end.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log => (value.max(f64::MIN_POSITIVE) / self.from).log10() / (self.to / self.from).log10(),
            Scale::Signed { unit } => {
                let bent = |value: f64| (value / unit).asinh();
                (bent(value) - bent(self.from)) / (bent(self.to) - bent(self.from))
            }
            Scale::Nines => nines(value) / nines(self.to),
        };
        if place.is_finite() {
            place.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    /// The marked values.
    pub fn ticks(&self) -> Vec<f64> {
        let last = self.to * (1.0 + 1e-9);
        match self.scale {
            Scale::Linear => {
                let step = step(self.to - self.from);
                let first = (self.from / step).ceil() as i64;
                let ticks = (first..first + 12).map(|count| count as f64 * step);
                ticks.filter(|tick| *tick <= self.to + step * 1e-6).collect()
            }
            Scale::Log => {
                let decades = (self.to / self.from).log10();
                let leading: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let powers = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
                let all = powers.flat_map(|power| leading.iter().map(move |lead| lead * 10f64.powi(power)));
                all.filter(|tick| *tick >= self.from * (1.0 - 1e-9) && *tick <= last)
                    .collect()
            }
            Scale::Signed { unit } => {
                let sizes = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0].map(|size| size * unit);
                let both = sizes.iter().rev().map(|size| -size).chain([0.0]).chain(sizes);
                both.filter(|tick| *tick >= self.from * (1.0 + 1e-9) && *tick <= last)
                    .collect()
            }
            Scale::Nines => [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999]
                .into_iter()
                .filter(|tick| *tick <= last)
                .collect(),
        }
    }

    /// Values over the whole axis, equally far from each other, `steps + 1` of them.
    pub fn even(&self, steps: usize) -> Vec<f64> {
        let at = |place: f64| match self.scale {
            Scale::Linear | Scale::Signed { .. } => self.from + place * (self.to - self.from),
            Scale::Log => self.from * (self.to / self.from).powf(place),
            Scale::Nines => 1.0 - 10f64.powf(-place * nines(self.to)),
        };
        (0..=steps).map(|step| at(step as f64 / steps as f64)).collect()
    }
}

/// How many nines a share has: 0.9 one, 0.99 two.
fn nines(share: f64) -> f64 {
    -(1.0 - share.clamp(0.0, 0.999_999_9)).log10()
}

/// The smallest and the largest finite value; `(0, 0)` without any.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values = values.filter(|value| value.is_finite());
    values
        .fold(None, |range: Option<(f64, f64)>, value| {
            let (from, to) = range.unwrap_or((value, value));
            Some((from.min(value), to.max(value)))
        })
        .unwrap_or((0.0, 0.0))
}

/// A step of 1, 2 or 5 times a power of ten that parts the width into four to eight.
fn step(width: f64) -> f64 {
    let rough = (width / 6.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    match rough / power {
        lead if lead < 1.5 => power,
        lead if lead < 3.5 => 2.0 * power,
        lead if lead < 7.5 => 5.0 * power,
        _ => 10.0 * power,
    }
}

fn nice_below(value: f64) -> f64 {
    let power = 10f64.powf((value * (1.0 + 1e-9)).log10().floor());
    let lead = [5.0, 2.0, 1.0]
        .into_iter()
        .find(|lead| lead * power <= value * (1.0 + 1e-9));
    lead.unwrap_or(1.0) * power
}

fn nice_above(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let lead = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|lead| lead * power >= value * (1.0 - 1e-9));
    lead.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nine_is_equally_wide() {
        let axis = Axis::nines(0.9999);
        let places: Vec<i64> = [0.0, 0.9, 0.99, 0.999, 0.9999]
            .map(|share| (axis.place(share) * 100.0).round() as i64)
            .into();
        assert_eq!(places, [0, 25, 50, 75, 100]);
    }

    #[test]
    fn axes_hold_all_values_and_end_on_round_ones() {
        let axis = Axis::log([0.31, 87.0].into_iter());
        assert_eq!((axis.from, axis.to), (0.2, 100.0));
        assert_eq!(Axis::exactly(0.0, 9.95).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
    }

    #[test]
    fn tenths_and_hundreds_are_both_seen_on_a_signed_axis() {
        let axis = Axis::signed([-4.0, 8.0, 240.0].into_iter());
        assert_eq!(
            axis.ticks(),
            [-3.0, -1.0, 0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]
        );
        assert!(axis.place(8.0) - axis.place(0.0) > 0.2, "{}", axis.place(8.0));
        assert_eq!((axis.place(-5.0), axis.place(500.0)), (0.0, 1.0));
    }

    #[test]
    fn nothing_to_show_is_still_an_axis() {
        for axis in [
            Axis::log([].into_iter()),
            Axis::signed([f64::NAN].into_iter()),
            Axis::log([0.0, -1.0].into_iter()),
            Axis::exactly(0.0, 0.0),
            Axis::log([3.0, 3.0].into_iter()),
            Axis::signed([1e300, -1e300].into_iter()),
            Axis::signed([].into_iter()),
            Axis::signed([-2.0].into_iter()),
        ] {
            assert!(axis.place(1.0).is_finite());
            assert!(axis.ticks().len() < 40, "{axis:?}");
            assert!(axis.even(10).iter().all(|value| value.is_finite()));
        }
    }
}
