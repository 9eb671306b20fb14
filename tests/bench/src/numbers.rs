//! Numbers as people read them: medians, times, ratios.

/// Median and extremes of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The one in the middle; the mean of the two there, where they are even in number.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// How many.
    pub count: usize,
}

impl Spread {
    /// Of at least one number.
    pub fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.collect();
        sorted.sort_by(f64::total_cmp);
        let (count, middle) = (sorted.len(), sorted.len() / 2);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let median = if count % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, least, most, count })
    }
}

/// A time in milliseconds, in the unit that suits it.
pub fn time(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 10_000.0 => format!("{:.2} s", ms / 1000.0),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// How many times longer than ours.
pub fn ratio(theirs: f64, ours: f64) -> String {
    // So much passes between two rows of a writer on a busy machine: there is no outage, and no ratio of outages.
    const NO_OUTAGE_MS: f64 = 100.0;
    if theirs < NO_OUTAGE_MS && ours < NO_OUTAGE_MS {
        return "(no outage in either)".to_owned();
    }
    let ratio = theirs / ours.max(1.0);
    if ratio < 10.0 { format!("×{ratio:.1}") } else { format!("×{ratio:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |numbers: &[f64]| Spread::of(numbers.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0, count: 3 }));
        assert_eq!(of(&[4.0, 1.0]).map(|spread| spread.median), Some(2.5));
    }

    #[test]
    fn a_ratio_is_only_told_where_there_is_an_outage() {
        assert_eq!(ratio(20_000.0, 500.0), "×40");
        assert_eq!(ratio(600.0, 500.0), "×1.2");
        assert_eq!(ratio(12.0, 9.0), "(no outage in either)");
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!([time(3.13), time(512.3), time(1234.0), time(24_060.0)], ["3.1 ms", "512 ms", "1.23 s", "24.1 s"]);
    }
}
