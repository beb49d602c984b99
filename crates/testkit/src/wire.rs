//! The network between the hosts of a mesh: what can be seen there, and programs that are put there.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Write,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use crate::{Mesh, Output, is_root, peer, skip};

/// Room for what is not read yet: far more than a test sends.
const ROOM: usize = 64 << 20;
/// The longest frame of a link that joins segments.
const FRAME: usize = 1 << 17;

/// One direction of one TCP connection.
pub type Flow = (SocketAddrV4, SocketAddrV4);

/// What was seen.
#[derive(Debug, Default)]
pub struct Capture {
    /// All frames, as they were.
    pub frames: Vec<Vec<u8>>,
    /// What each direction of each TCP connection carried, each byte once.
    pub flows: BTreeMap<Flow, Vec<u8>>,
}

impl Capture {
    /// Whether these bytes were seen, in one frame or over several.
    pub fn holds(&self, needle: &[u8]) -> bool {
        let within = |hay: &Vec<u8>| hay.windows(needle.len()).any(|window| window == needle);
        self.frames.iter().any(within) || self.flows.values().any(within)
    }

    fn take(&mut self, frame: &[u8], seen: &mut HashSet<(Flow, u32)>) {
        if let Some((flow, sequence, payload)) = tcp(frame)
            && !payload.is_empty()
            // On its way through the router a packet is seen on both links.
            && seen.insert((flow, sequence))
        {
            self.flows.entry(flow).or_default().extend(payload);
        }
        self.frames.push(frame.to_owned());
    }
}

/// The TCP segment in an Ethernet frame: its flow, its sequence number and what it carries.
fn tcp(frame: &[u8]) -> Option<(Flow, u32, &[u8])> {
    let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if word(frame, 12)? != 0x0800 {
        return None;
    }
    let packet = frame.get(14..)?;
    let packet = packet.get(..usize::from(word(packet, 2)?))?;
    if packet.get(9) != Some(&6) {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let segment = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
    let flow = (SocketAddrV4::new(address(12)?, word(segment, 0)?), SocketAddrV4::new(address(16)?, word(segment, 2)?));
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    Some((flow, sequence, segment.get(usize::from(segment.get(12)? >> 4) * 4..)?))
}

/// Listens to the network between the hosts, or to a node of a cluster.
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Capture>,
}

impl Sniffer {
    /// Begins to listen. Needs root, who alone may move a thread into another network namespace; says so if the tests run as somebody
    /// else, and returns `None`: that half of the test ends then.
    ///
    /// # Panics
    /// If the namespace cannot be listened to.
    pub fn start(mesh: &Mesh) -> Option<Sniffer> {
        if !is_root() {
            skip("only root can listen to the network between the hosts of a mesh");
            return None;
        }
        Some(Sniffer::of(mesh.holder()))
    }

    /// Begins to listen to the network namespace of a process, on all of its interfaces. Only root may.
    ///
    /// # Panics
    /// If the namespace cannot be listened to.
    pub fn of(process: i32) -> Sniffer {
        let namespace = File::open(format!("/proc/{process}/ns/net")).expect("a network namespace");
        let stop = Arc::new(AtomicBool::new(false));
        let (begun, begins) = mpsc::channel();
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).expect("a packet socket");
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM).expect("room for packets");
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("a time limit");
            begun.send(()).expect("somebody waits");
            let (mut capture, mut seen, mut buffer) = (Capture::default(), HashSet::new(), vec![0; FRAME]);
            loop {
                // Before the look: what was sent before the stop is in the socket by now.
                let last = told.load(Ordering::SeqCst);
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => capture.take(&buffer[..length], &mut seen),
                    Err(Errno::EAGAIN) if last => return capture,
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(error) => panic!("listen: {error}"),
                }
            }
        });
        begins.recv_timeout(Duration::from_secs(10)).expect("the sniffer listens");
        Sniffer { stop, thread }
    }

    /// Ends it, and returns what was seen.
    ///
    /// # Panics
    /// If listening failed.
    pub fn finish(self) -> Capture {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the sniffer")
    }
}

impl Mesh {
    /// Runs a program on the network between the hosts, where there is no proxy and nothing is captured, with `input` as its standard
    /// input. It is killed after 20 seconds. `None` if `nsenter` is not installed, as [`peer`] says.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn outside(&self, command: &[&str], input: &str) -> Option<Output> {
        let nsenter = peer("nsenter", "util-linux")?;
        let mut child = Command::new(nsenter)
            .args(["--target", &self.holder().to_string(), "--user", "--net", "--preserve-credentials", "--", "timeout", "20"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start nsenter");
        // A program that has ended reads no input.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("wait");
        Some(Output {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend([0x45, 0, 0, 45, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x12, 0x34, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(b"hello and padding");
        let flow = ("10.0.0.1:4660".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        assert_eq!(tcp(&frame), Some((flow, 7, &b"hello"[..])));
        for length in 0..frame.len() {
            let _ = tcp(&frame[..length]);
        }
        let (mut capture, mut seen) = (Capture::default(), HashSet::new());
        capture.take(&frame, &mut seen);
        capture.take(&frame, &mut seen);
        frame[41] = 12;
        capture.take(&frame, &mut seen);
        assert_eq!(capture.flows, BTreeMap::from([(flow, b"hellohello".to_vec())]));
        assert!(capture.holds(b"lohel") && !capture.holds(b"olleh"));
    }
}
