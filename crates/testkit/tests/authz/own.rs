//! Our own data plane, in this process.

use std::{any::Any, thread::JoinHandle};

use mizzen_dataplane::{Options, Places, RunError, Unknown, parse_bootstrap, run};
use mizzen_testkit::PATIENCE;
use serde_json::Value;
use tokio::{
    runtime::Builder,
    sync::{oneshot, watch},
};

/// One that ends with its owner.
struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        // What failed before says more.
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
    }
}

/// Starts it, and waits until all of its listeners serve.
pub(crate) fn start(bootstrap: &Value) -> Box<dyn Any> {
    let text = bootstrap.to_string();
    let parsed = parse_bootstrap(&text, Unknown::Refused).expect("a bootstrap");
    let faults = mizzen_dataplane::validate(&parsed, &Places::default()).expect("a bootstrap that can be used");
    assert!(faults.is_empty(), "{faults:#?}");
    let (sender, mut ready) = watch::channel(false);
    let options = Options { metrics: None, mark: 0, ready: Some(sender), ..Options::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = || Builder::new_current_thread().enable_all().build().expect("a runtime");
    let thread = std::thread::spawn(move || {
        runtime().block_on(run(parsed, options, async {
            let _ = stopped.await;
        }))
    });
    let running = Running { stop: Some(stop), thread: Some(thread) };
    let served = runtime().block_on(async { tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.map(|r| r.is_ok()) });
    assert_eq!(served, Ok(true), "our own proxy does not start");
    Box::new(running)
}
