//! From rounds to one figure and its error.

/// A mean and its standard error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estimate {
    pub(crate) mean: f64,
    pub(crate) stderr: f64,
}

/// Mean and standard error of what is left when the outer tenth on either side is dropped: on a
/// shared machine a neighbour spoils some rounds, and those say nothing about Envoy.
#[expect(clippy::cast_precision_loss, reason = "a few hundred rounds")]
pub(crate) fn estimate(samples: &[f64]) -> Estimate {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let drop = sorted.len() / 10;
    let kept = sorted.get(drop..sorted.len() - drop).unwrap_or_default();
    let count = kept.len() as f64;
    let mean = kept.iter().sum::<f64>() / count;
    let variance = kept.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    Estimate {
        mean,
        stderr: (variance / count).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spoilt_round_in_ten_does_not_move_the_mean() {
        let mut samples = vec![50.0; 18];
        samples.extend([500.0, 1.0]);
        let found = estimate(&samples);
        assert!(
            (found.mean - 50.0).abs() < 1e-9 && found.stderr < 1e-9,
            "{found:?}"
        );
    }
}
