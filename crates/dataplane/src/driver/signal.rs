//! How one task of a thread tells another one of the same thread to look again.

use std::{
    cell::Cell,
    task::{Context, Poll, Waker},
};

/// Told or not; one task waits. What is told while nobody waits is kept, once.
#[derive(Default)]
pub(super) struct Signal {
    told: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Signal {
    /// Has whoever waits look again.
    pub(super) fn tell(&self) {
        // Who was told and has not looked yet will see all that has happened.
        if !self.told.replace(true)
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    /// Ready if something was told since it last was.
    pub(super) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.told.replace(false) {
            return Poll::Ready(());
        }
        let waiter = self.waiter.take().filter(|waiter| waiter.will_wake(cx.waker()));
        self.waiter.set(Some(waiter.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }

    /// Waits until something is told.
    pub(super) async fn told(&self) {
        std::future::poll_fn(|cx| self.poll_told(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, task};

    use super::*;

    #[test]
    fn what_is_told_is_kept_once() {
        let signal = Signal::default();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(signal.poll_told(&mut cx).is_pending());
        signal.tell();
        signal.tell();
        assert!(signal.poll_told(&mut cx).is_ready());
        assert!(signal.poll_told(&mut cx).is_pending());
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let signal = Rc::new(Signal::default());
        let mut waiting = Box::pin({
            let signal = signal.clone();
            async move { signal.told().await }
        });
        let first = std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        let count = std::sync::Arc::new(Count::default());
        let waker = task::Waker::from(count.clone());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        signal.tell();
        assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1, "the newest waiter");
        waiting.await;
    }

    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicUsize);

    impl task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
