//! What the items cost: the seven skews.

use crate::price::TINY;
use crate::sim::{Ns, splitmix};

/// The items of a map, by what they cost.
pub struct Load {
    pub name: &'static str,
    /// What the items before an index cost together; one more than there are items.
    before: Vec<Ns>,
    longest: Ns,
}

impl Load {
    pub fn new(name: &'static str, costs: impl IntoIterator<Item = Ns>) -> Self {
        let mut before = vec![0];
        let (mut sum, mut longest) = (0, 0);
        for cost in costs {
            sum += cost;
            longest = longest.max(cost);
            before.push(sum);
        }
        Load { name, before, longest }
    }

    /// `len` items whose `weights` share `total`, on top of what each item costs by itself.
    fn weighted(name: &'static str, total: Ns, weights: &[f64]) -> Self {
        let unit = total as f64 / weights.iter().sum::<f64>();
        Load::new(name, weights.iter().map(|weight| TINY + (weight * unit) as Ns))
    }

    pub fn len(&self) -> usize {
        self.before.len() - 1
    }

    /// What `count` items from `start` on cost.
    pub fn cost(&self, start: usize, count: usize) -> Ns {
        self.before[start + count] - self.before[start]
    }

    pub fn total(&self) -> Ns {
        self.cost(0, self.len())
    }

    /// No schedule on `workers` is faster.
    pub fn ideal(&self, workers: usize) -> Ns {
        (self.total() / workers as Ns).max(self.longest)
    }
}

/// The seven skews, each of `len` items that take `total` one after another.
pub fn skews(len: usize, total: Ns) -> Vec<Load> {
    let eight = |from: usize| {
        (0..len).map(|i| f64::from((from..from + 8).contains(&i))).collect::<Vec<_>>()
    };
    let mut zipf: Vec<f64> = (1..=len).map(|rank| 1.0 / rank as f64).collect();
    let mut seed = 7;
    for i in (1..len).rev() {
        zipf.swap(i, (splitmix(&mut seed) % (i as u64 + 1)) as usize);
    }
    let last = len - len / 100;
    let last_percent: Vec<f64> = (0..len).map(|i| f64::from(i >= last)).collect();
    let ramp: Vec<f64> = (0..len).map(|i| i as f64).collect();
    vec![
        Load::weighted("uniform", total, &vec![1.0; len]),
        Load::weighted("zipf, shuffled", total, &zipf),
        Load::weighted("last 1 %", total, &last_percent),
        Load::weighted("first 8", total, &eight(0)),
        Load::weighted("middle 8", total, &eight(len / 2)),
        Load::weighted("last 8", total, &eight(len - 8)),
        Load::weighted("ramp", total, &ramp),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_skew_has_its_length_and_its_work() {
        let loads = skews(1000, 10_000_000);
        assert_eq!(loads.len(), 7);
        for load in loads {
            assert_eq!(load.len(), 1000);
            assert!((9_990_000..=10_001_000).contains(&load.total()), "{}", load.name);
            assert_eq!(load.ideal(1), load.total());
            assert!(load.ideal(1000) >= load.total() / 1000);
        }
    }
}
