//! The designs that are compared: what the crate does, and what could be changed.

use crate::crew::{self, Calls};
use crate::map::{Engine, Look};
use crate::ranges::{Design, Victim};

/// The engine as first committed: a look each sixteenth of a slice, and what is given back goes to
/// one worker as a whole.
pub fn first() -> Design {
    let crew = crew::Design { wakes_in_lock: true, ..crew::Design::default() };
    Design { engine: Engine { crew, ..Engine::default() }, ..Design::default() }
}

/// The second: what is given back is claimed in portions by all, and the hungry are looked at before
/// each item, the clock before each 17th.
pub fn second() -> Design {
    let engine = Engine { look: Look::Item(16), shares_spares: true, ..first().engine };
    Design { engine, ..first() }
}

/// What the crate does: the second with what the model found most worth changing, a count of the hungry
/// and wake-ups outside the lock. To be kept up with `src/engine.rs` and `src/workers.rs`.
pub fn current() -> Design {
    let crew = crew::Design::default();
    let engine = Engine { crew, counts_hungry: true, ..second().engine };
    Design { engine, ..second() }
}

/// One change after another, each on top of those before.
pub fn changes() -> Vec<(&'static str, Design)> {
    let mut design = second();
    let mut all = vec![("first commit", first()), ("spares in portions, looks at items", design)];
    design.engine.look = Look::Item(0);
    all.push(("+ the clock at each item while somebody is hungry", design));
    design.engine.counts_hungry = true;
    all.push(("+ the hungry counted", design));
    design.engine.crew.wakes_in_lock = false;
    all.push(("+ wake-ups outside the lock", design));
    design.victim = Victim::FullestOf(4);
    all.push(("+ the fullest of 4 at random", design));
    design.engine.calls = 2;
    all.push(("+ two calls on arrival", design));
    design.engine.calls = 1;
    design.dealt_out = true;
    all.push(("instead: + input dealt out", design));
    design.dealt_out = false;
    design.engine.crew.calls = Calls::Doubling;
    all.push(("instead: + calls on their way bounded by those awake", design));
    all
}

/// All changes that pay.
pub fn mended() -> Design {
    Design { victim: Victim::FullestOf(4), ..current() }
}
