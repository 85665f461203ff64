//! A panic of the server under test is an outcome, not the end of the simulator.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `body`; a panic is returned, and not printed.
pub(super) fn contain<T>(body: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                previous(info);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    CONTAINED.set(outer);
    result
}

/// What a panic said.
pub(super) fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).into()
    } else {
        "a panic that says nothing".into()
    }
}

/// The engine's invariant that a panic names.
pub(super) fn invariant(text: &str) -> &'static str {
    const NAMES: [&str; 10] = ["I10", "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9"];
    NAMES.into_iter().find(|name| text.contains(&format!("{name}:"))).unwrap_or("panic")
}
