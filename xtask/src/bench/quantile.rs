//! Quantiles of samples. It must not interpolate: each quantile is one of the samples.

/// The value below which a fraction of the samples lies.
pub(super) fn quantile(samples: &[f64], fraction: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * fraction).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The median.
pub(super) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}
