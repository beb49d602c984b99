//! Workers: each a thread with a runtime of its own, an engine [`Worker`](mizzen_engine::Worker), and the sockets that it owns.
//!
//! The control thread talks to them by [`Workers`] and hears from them by [`Report`]s.

mod listening;
mod shared;
mod signal;
mod sockets;
mod thread;

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    sync::Arc,
    thread::JoinHandle,
};

use mizzen_engine::{Answer, Command, Options, Question, WaitId, metrics::Snapshot};
use mizzen_ir::Config;
use mizzen_types::Name;
use tokio::sync::mpsc;

/// What workers report to the control thread.
#[derive(Debug)]
pub enum Report {
    /// Lines for a log file.
    Log(Arc<str>, Vec<u8>),
    /// Somebody waits for an answer from outside: send it by [`Workers::answer`].
    Ask {
        /// Which worker.
        worker: usize,
        /// The wait in it.
        wait: WaitId,
        /// What is asked.
        question: Question,
        /// What for, in words, where that matters.
        why: Name,
    },
    /// The answer to [`Workers::snapshot`], from one worker.
    Snapshot {
        /// Which worker.
        worker: usize,
        /// The number that was given to [`Workers::snapshot`].
        request: u64,
        /// Its counters and pools.
        snapshot: Box<Snapshot>,
    },
    /// A configuration that nobody uses any more; dropping it may take a while.
    Dispose(Arc<Config>),
    /// The listeners of a configuration are open, or not, with the reason for each that is not.
    Listening {
        /// Which worker.
        worker: usize,
        /// The configuration's generation.
        generation: u64,
        /// Address and reason of each socket that could not be opened.
        failed: Vec<(SocketAddr, String)>,
    },
    /// A worker has panicked and serves nothing any more.
    Died {
        /// Which worker.
        worker: usize,
    },
    /// A worker has drained: none of the connections that it accepted is left, after [`Workers::drain`] or [`Workers::stop`].
    Idle {
        /// Which worker.
        worker: usize,
    },
}

/// What a worker is told.
#[derive(Debug)]
enum Order {
    Command(Command),
    /// A listening socket that somebody else opened for this address.
    Inherited(SocketAddr, TcpListener),
    /// Those for this address are closed.
    Disinherited(SocketAddr),
    /// Try again to open what could not be opened.
    Reopen,
    /// Finish connections of this listener, or all; more may come.
    Farewell(Option<Name>),
    /// No more connections; finish those that there are.
    Drain,
    /// End now.
    Stop,
}

/// All workers of the process.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<(mpsc::UnboundedSender<Order>, JoinHandle<()>)>,
}

/// The thread of a worker, whose death is reported wherever in it the panic was: a process that serves nothing any more must not look alive.
fn spawn(number: usize, reports: mpsc::UnboundedSender<Report>, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    struct Obituary(usize, mpsc::UnboundedSender<Report>);

    impl Drop for Obituary {
        fn drop(&mut self) {
            if std::thread::panicking() {
                // Without a control thread the process ends anyway.
                let _ = self.1.send(Report::Died { worker: self.0 });
            }
        }
    }

    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let _obituary = Obituary(number, reports);
        work();
    })
}

impl Workers {
    /// Starts `count` workers on the first configuration. `options.seed` is varied for each.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        count: usize,
        options: &Options,
        config: &Arc<Config>,
        reports: &mpsc::UnboundedSender<Report>,
    ) -> std::io::Result<Workers> {
        let mut workers = Vec::new();
        for number in 0..count.max(1) {
            let (sender, orders) = mpsc::unbounded_channel();
            let options = Options { seed: options.seed.wrapping_add(number as u64), ..options.clone() };
            let start = thread::Start { number, several: count > 1, options, config: config.clone(), reports: reports.clone() };
            let handle = spawn(number, reports.clone(), move || thread::run(start, orders))?;
            workers.push((sender, handle));
        }
        Ok(Workers { workers })
    }

    /// How many workers.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there is none; never so.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Publishes a configuration in which everything is warm.
    pub fn publish(&self, config: &Arc<Config>) {
        self.all(|| Order::Command(Command::Config(config.clone())));
    }

    /// Answers a question of one worker.
    pub fn answer(&self, worker: usize, wait: WaitId, answer: Answer) {
        if let Some((sender, _)) = self.workers.get(worker) {
            let _ = sender.send(Order::Command(Command::Answer(wait, answer)));
        }
    }

    /// Asks every worker for a [`Report::Snapshot`].
    pub fn snapshot(&self, request: u64) {
        self.all(|| Order::Command(Command::Snapshot(request)));
    }

    /// Has every worker mark what its open connections and streams use.
    pub fn mark_used(&self) {
        self.all(|| Order::Command(Command::MarkUsed));
    }

    /// Serves a socket that somebody else has opened as if the listener of this address had opened it.
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated for each worker.
    pub fn inherit(&self, address: SocketAddr, socket: &TcpListener) -> std::io::Result<()> {
        let copies: Vec<TcpListener> =
            self.workers.iter().map(|_| socket.as_fd().try_clone_to_owned().map(Into::into)).collect::<Result<_, _>>()?;
        for ((sender, _), copy) in self.workers.iter().zip(copies) {
            let _ = sender.send(Order::Inherited(address, copy));
        }
        Ok(())
    }

    /// Closes the sockets that somebody else has opened for this address. What they have brought goes on.
    pub fn disinherit(&self, address: SocketAddr) {
        self.all(|| Order::Disinherited(address));
    }

    /// Has every worker try again to open the sockets that it could not open; each answers by [`Report::Listening`].
    pub fn reopen(&self) {
        self.all(|| Order::Reopen);
    }

    /// Asks connections to end as they become idle, of this listener or, without a name, of all; more may come.
    pub fn farewell(&self, listener: Option<&Name>) {
        self.all(|| Order::Farewell(listener.cloned()));
    }

    /// Accepts no more and lets connections end; each worker answers by [`Report::Idle`].
    pub fn drain(&self) {
        self.all(|| Order::Drain);
    }

    /// Ends all workers and closes what is open.
    pub fn stop(self) {
        self.all(|| Order::Stop);
        for (_, handle) in self.workers {
            // A worker that panicked has said so on its own.
            let _ = handle.join();
        }
    }

    fn all(&self, order: impl Fn() -> Order) {
        for (sender, _) in &self.workers {
            // A worker that is gone cannot be told anything.
            let _ = sender.send(order());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_reported_wherever_it_was() {
        let (reporter, mut reports) = mpsc::unbounded_channel();
        assert!(spawn(3, reporter.clone(), || panic!("a fault")).unwrap().join().is_err());
        assert!(matches!(reports.try_recv(), Ok(Report::Died { worker: 3 })));
        assert!(spawn(4, reporter, || ()).unwrap().join().is_ok());
        assert!(reports.try_recv().is_err(), "who ends as told to has not died");
    }
}
