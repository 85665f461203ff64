//! Locks and atomics: `parking_lot` and `std` in production, loom's under `cfg(loom)`.

#[cfg(loom)]
pub use loom::sync::{Arc, atomic};
#[cfg(not(loom))]
pub use parking_lot::Mutex;
#[cfg(not(loom))]
pub use std::sync::{Arc, atomic};

/// Loom's mutex with `parking_lot`'s interface: a model never poisons a lock.
///
/// Loom itself tries no interleaving in which a `try_lock` finds the lock taken by a section without operations of its own. So a
/// section begins with an operation here, and a `try_lock` is preceded by one that depends on it.
#[cfg(loom)]
#[derive(Debug, Default)]
pub struct Mutex<T> {
    value: loom::sync::Mutex<T>,
    touched: atomic::AtomicUsize,
}

#[cfg(loom)]
impl<T> Mutex<T> {
    /// A mutex around `value`.
    pub fn new(value: T) -> Self {
        Self { value: loom::sync::Mutex::new(value), touched: atomic::AtomicUsize::new(0) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        let guard = self.value.lock().expect("no model panics with a lock held");
        self.touch();
        guard
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<loom::sync::MutexGuard<'_, T>> {
        self.touch();
        self.value.try_lock().ok()
    }

    fn touch(&self) {
        self.touched.fetch_add(1, atomic::Ordering::Relaxed);
    }
}
