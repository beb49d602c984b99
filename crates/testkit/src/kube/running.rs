//! Programs that end with this process.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::tail;

/// A program with a log. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it in `folder`; what it writes goes to the end of `log`.
    pub(super) fn start(program: &Path, args: &[String], folder: &Path, log: &Path) -> Result<Running, String> {
        let failed = |error: io::Error| format!("{}: {error}", program.display());
        let file = File::options().create(true).append(true).open(log).map_err(failed)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args).current_dir(folder);
        command.stdin(Stdio::null()).stderr(file.try_clone().map_err(failed)?).stdout(file);
        Ok(Running { child: spawn(command).map_err(failed)?, log: log.to_owned() })
    }

    /// How it ended, if it has, with its last words.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("it ended with {status}; {}", tail(&self.log)))
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Kills it and waits for its end.
    pub(super) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a command from a thread that lives as long as the process: the kernel takes the end of the starting *thread* for its parent's death.
fn spawn(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    orders.send((command, answer)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}
