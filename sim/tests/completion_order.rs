//! Completions of different tags come in every order, without a fault for it: which request is admitted next, and which operation of the
//! disk is over, are choices. Task work itself runs in the order in which it was queued, as in the kernel.

mod support;

use blkproof_sim::config::{Config, Faults, TargetKind};
use blkproof_sim::outcome::Record;
use support::clean;

/// The timelines of 400 runs with one queue of two tags on a file.
fn timelines() -> impl Iterator<Item = Vec<Record>> {
    let small = Config { queues: 1, depth: 2, requests: 4, timeline: true, ..Config::engine() };
    let config = Config { target: TargetKind::File, faults: Faults::NONE, ..small };
    (0..400).map(move |seed| clean(&config, seed).timeline)
}

/// Of the first moment at which both tags had begun something: whether the one that began first was also through first.
fn in_order(
    timeline: &[Record],
    begins: impl Fn(u16) -> String,
    ends: impl Fn(u16) -> String,
) -> Option<bool> {
    let mut under_way: Vec<u16> = Vec::new();
    for record in timeline {
        for tag in 0..2 {
            if record.text.contains(&begins(tag)) && !under_way.contains(&tag) {
                under_way.push(tag);
            } else if record.text.contains(&ends(tag)) {
                if under_way.len() == 2 {
                    return Some(under_way[0] == tag);
                }
                under_way.retain(|one| *one != tag);
            }
        }
    }
    None
}

fn both_orders(what: &str, orders: impl Iterator<Item = Option<bool>>) {
    let orders: Vec<bool> = orders.flatten().collect();
    let kept = orders.iter().filter(|kept| **kept).count();
    println!("{what}: {kept} in order, {} not", orders.len() - kept);
    assert!(kept > 0 && kept < orders.len(), "{what}");
}

#[test]
fn operations_of_two_tags_end_in_both_orders() {
    let begins = |tag| format!("for tag {tag}");
    let ends = |tag| format!("of queue 0 tag {tag} = ");
    both_orders("operations", timelines().map(|one| in_order(&one, begins, ends)));
}

#[test]
fn requests_of_two_tags_are_committed_in_both_orders() {
    let begins = |tag| format!("delivered on tag {tag} of");
    let ends = |tag| format!("C: commits tag {tag} of");
    both_orders("commits", timelines().map(|one| in_order(&one, begins, ends)));
}

/// Of a write and a discard that were asked for before either was admitted: the FETCH or COMMIT of the second may complete first.
#[test]
fn two_requests_are_delivered_in_both_orders() {
    let deliveries = timelines().map(|timeline| {
        let place = |text: &str| timeline.iter().position(|record| record.text.starts_with(text));
        let (write, discard) = (place("WRITE ")?, place("DISCARD ")?);
        let admitted = place("Q: WRITE on")?.min(place("Q: DISCARD on")?);
        let (first, second) = (place("TW: WRITE delivered")?, place("TW: DISCARD delivered")?);
        (write.max(discard) < admitted).then_some((write < discard) == (first < second))
    });
    both_orders("deliveries", deliveries);
}
