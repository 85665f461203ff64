//! What an operator wants of a supervisor, as a signal: its number says what, its value how much.

use blkproof_engine::link::Order;

/// The signals that ask a supervisor to stop.
pub const STOP_SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
/// The signal that asks it to recover its device.
pub const RECOVER_SIGNAL: i32 = libc::SIGUSR1;
/// The signal that asks it to hand its device over to another worker.
pub const HANDOVER_SIGNAL: i32 = libc::SIGUSR2;
/// The signal that asks it to resize its device; its value is the size in sectors.
const RESIZE_REALTIME: i32 = 1;

/// The number of that signal: a real-time one, as only those carry a value.
pub fn resize_signal() -> i32 {
    libc::SIGRTMIN() + RESIZE_REALTIME
}

/// All that a supervisor listens to.
pub fn signals() -> [i32; 6] {
    let [term, int, hup] = STOP_SIGNALS;
    [term, int, hup, RECOVER_SIGNAL, HANDOVER_SIGNAL, resize_signal()]
}

/// The signal that an order is, and its value.
pub fn signal(order: Order) -> (i32, u64) {
    match order {
        Order::Stop => (libc::SIGTERM, 0),
        Order::Recover => (RECOVER_SIGNAL, 0),
        Order::Handover => (HANDOVER_SIGNAL, 0),
        Order::Resize { sectors } => (resize_signal(), sectors),
    }
}

/// The order that a signal is.
pub fn order(signal: i32, value: u64) -> Order {
    match signal {
        RECOVER_SIGNAL => Order::Recover,
        HANDOVER_SIGNAL => Order::Handover,
        signal if signal == resize_signal() => Order::Resize { sectors: value },
        _ => Order::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_being_a_signal() {
        let resize = Order::Resize { sectors: u64::MAX / 512 };
        for wanted in [Order::Stop, Order::Recover, Order::Handover, resize] {
            let (number, value) = signal(wanted);
            assert!(signals().contains(&number));
            assert_eq!(order(number, value), wanted);
        }
    }
}
