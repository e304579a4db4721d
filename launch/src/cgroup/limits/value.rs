//! Values of limits in the kernel's text format. It must not know which file holds a value.

use std::fmt;

use crate::model::limits::{MAX, Rate};

/// A limit's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// [`MAX`] is "max".
    Number(u64),
    /// Quota and period.
    Bandwidth(u64, u64),
    /// In the order of [`Rate::ALL`].
    Rates([u64; 4]),
}

impl Value {
    /// The tighter of two values of the same kind.
    pub(crate) fn tighter(self, other: Value) -> Value {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => Value::Number(a.min(b)),
            (Value::Bandwidth(quota, period), Value::Bandwidth(other_quota, other_period)) => {
                // Quotas are comparable only as rates.
                let own = u128::from(quota) * u128::from(other_period);
                let theirs = u128::from(other_quota) * u128::from(period);
                let other_binds = other_quota != MAX && (quota == MAX || theirs < own);
                if other_binds { other } else { self }
            }
            (Value::Rates(a), Value::Rates(b)) => {
                Value::Rates(std::array::from_fn(|n| a[n].min(b[n])))
            }
            _ => self,
        }
    }
}

impl fmt::Display for Value {
    /// The kernel's text format.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: u64| if value == MAX { "max".to_owned() } else { value.to_string() };
        match self {
            Value::Number(value) => f.write_str(&word(*value)),
            Value::Bandwidth(quota, period) => write!(f, "{} {period}", word(*quota)),
            Value::Rates(rates) => {
                let all = rates.iter().zip(Rate::ALL);
                let all = all.map(|(value, rate)| format!("{}={}", rate.word(), word(*value)));
                f.write_str(&all.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_compared_as_rates() {
        let (fast, slow) =
            (Value::Bandwidth(200_000, 1_000_000), Value::Bandwidth(10_000, 100_000));
        assert_eq!(fast.tighter(slow), slow);
        assert_eq!(slow.tighter(fast), slow);
        assert_eq!(Value::Bandwidth(MAX, 1).tighter(fast), fast);
    }
}
