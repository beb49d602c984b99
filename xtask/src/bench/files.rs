//! `cargo xtask bench files`: what it costs to read a folder of configuration, to take an edit of one of its files, and to wait for the next one.
//!
//! The objects are those of `bench control`: services with their routes and rules. A process of its own reads them by the source of `mizzend` and does
//! nothing else, so that what it uses and holds is what reading costs; what it used and held before it read anything is told beside.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStdout, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mizzen_control::source::{Event, Files, Merge, Options};
use serde_json::{Value, json};

use super::{
    control::{mesh::Mesh, plane::Process},
    load::median,
};

/// It is at rest when it has used no more than [`AT_REST`] for so long.
const QUIET: Duration = Duration::from_millis(400);
const AT_REST: Duration = Duration::from_millis(4);
/// How long it may take to see something.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reading a folder.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FilesArgs {
    /// How many objects there are, about.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=200_000))]
    objects: u32,
    /// How often all is measured, each time by a new process; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long it is watched while nothing happens, in seconds.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle: u64,
    /// Prints JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// Whether this is the release build, which is made and started first.
    #[arg(long, hide = true)]
    released: bool,
}

/// What the process that is measured does.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadArgs {
    folder: PathBuf,
    #[arg(long)]
    last_good: Option<PathBuf>,
}

/// How the objects lie in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A namespace's services in one file.
    Namespace,
    /// What belongs to a service in one.
    Service,
    /// Each object by itself.
    Object,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Nothing,
    Read,
    Edit,
    Idle,
    KeepFirst,
    KeepAgain,
}

const ROWS: [Row; 6] = [Row::Nothing, Row::Read, Row::Edit, Row::Idle, Row::KeepFirst, Row::KeepAgain];

/// One measurement, or the median of several: seconds, and MiB.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    cpu: f64,
    /// From the start, or from the edit, until all of it was there.
    time: f64,
    anonymous: f64,
    peak: f64,
}

impl Layout {
    const ALL: [Layout; 3] = [Layout::Namespace, Layout::Service, Layout::Object];

    fn title(self) -> &'static str {
        match self {
            Layout::Namespace => "32 objects",
            Layout::Service => "3 objects",
            Layout::Object => "1 object",
        }
    }
}

impl Row {
    fn title(self) -> &'static str {
        match self {
            Row::Nothing => "an empty folder",
            Row::Read => "all",
            Row::Edit => "second edit of a file",
            Row::Idle => "nothing happens",
            Row::KeepFirst => "all, and keeps the last good versions",
            Row::KeepAgain => "all, kept already",
        }
    }
}

/// Measures and prints.
pub(crate) fn files(args: &FilesArgs) -> Result<()> {
    if !args.released {
        return super::restart(&["xtask"], |_| vec!["--released".into()]);
    }
    let mut results = Vec::new();
    for layout in Layout::ALL {
        let mut all: Vec<Vec<Measured>> = vec![Vec::new(); ROWS.len()];
        for round in 1..=args.rounds {
            let dir = tempfile::Builder::new().prefix("mizzen-bench-").tempdir()?;
            let measured = measure(args, layout, dir.path()).with_context(|| format!("{}, round {round}", layout.title()))?;
            for ((all, row), one) in all.iter_mut().zip(ROWS).zip(measured) {
                eprintln!("{} a file: {}: {:.4} CPU s, {:.1} MiB", layout.title(), row.title(), one.cpu, one.anonymous);
                all.push(one);
            }
        }
        results.push((layout, all.iter().map(|all| Measured::median(all)).collect::<Vec<_>>()));
    }
    if args.json {
        println!("{:#}", as_json(&results, args))
    } else {
        print!("{}", table(&results))
    }
    Ok(())
}

/// All rows once, in their order.
fn measure(args: &FilesArgs, layout: Layout, dir: &Path) -> Result<Vec<Measured>> {
    let (folder, staging, kept) = (dir.join("config"), dir.join("staging"), dir.join("last-good"));
    for made in [&folder, &staging] {
        fs::create_dir_all(made)?;
    }
    let nothing = Reader::start(&folder, None)?.at_rest(Duration::ZERO)?;
    let services = Mesh::services_of(args.objects);
    for (name, text) in contents(layout, services) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        fs::write(path, text)?;
    }
    let mut reader = Reader::start(&folder, None)?;
    let mut rows = vec![nothing, reader.at_rest(Duration::ZERO)?];
    reader.edit(&staging, &folder, layout, services, 91)?;
    rows.push(reader.edit(&staging, &folder, layout, services, 92)?);
    let before = reader.process.cpu()?;
    thread::sleep(Duration::from_secs(args.idle));
    rows.push(reader.measured(before, Duration::ZERO)?);
    drop(reader);
    for _ in 0..2 {
        rows.push(Reader::start(&folder, Some(&kept))?.at_rest(Duration::ZERO)?);
    }
    Ok(rows)
}

/// The files, by their names below the folder.
pub(super) fn contents(layout: Layout, services: u32) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for (number, namespace) in Mesh::namespaces(services) {
        match layout {
            Layout::Namespace => files.push((format!("ns{number}.yaml"), namespace.concat())),
            Layout::Service => {
                let (head, services) = namespace.split_at(2.min(namespace.len()));
                files.push((format!("ns{number}/namespace.yaml"), head.concat()));
                let each = services.chunks(3).enumerate();
                files.extend(each.map(|(at, objects)| (format!("ns{number}/s{at}.yaml"), objects.concat())));
            }
            Layout::Object => {
                let each = namespace.into_iter().enumerate();
                files.extend(each.map(|(at, object)| (format!("ns{number}/o{at}.yaml"), object)));
            }
        }
    }
    files
}

/// The process that reads.
struct Reader {
    process: Process,
    begun: Instant,
    /// How many objects it has said to have, or to have got anew, and when.
    said: mpsc::Receiver<(usize, Instant)>,
    time: Duration,
}

impl Reader {
    /// Starts it, and waits until it has read all.
    fn start(folder: &Path, last_good: Option<&Path>) -> Result<Reader> {
        let mut process = Process::start(&std::env::current_exe()?, |command| {
            command.args(["bench", "read"]).arg(folder).stdin(Stdio::null()).stdout(Stdio::piped());
            if let Some(kept) = last_good {
                command.arg("--last-good").arg(kept);
            }
        })?;
        let begun = Instant::now();
        let out = process.child().stdout.take().context("no output")?;
        let (sender, said) = mpsc::channel();
        thread::spawn(move || listen(out, &sender));
        let mut reader = Reader { process, begun, said, time: Duration::ZERO };
        reader.hear(begun)?;
        Ok(reader)
    }

    /// Waits until it says something; how long that took from `begun` on is told with the next measurement.
    fn hear(&mut self, begun: Instant) -> Result<usize> {
        let (number, when) = self.said.recv_timeout(PATIENCE).context("it has seen nothing")?;
        self.time = when.saturating_duration_since(begun);
        Ok(number)
    }

    /// Waits until it does nothing any more, and tells what it has used since it had used `before`.
    fn at_rest(&mut self, before: Duration) -> Result<Measured> {
        let end = self.begun.max(Instant::now()) + PATIENCE;
        let (mut cpu, mut since) = (self.process.cpu()?, Instant::now());
        while since.elapsed() < QUIET {
            thread::sleep(Duration::from_millis(20));
            let now = self.process.cpu()?;
            if now - cpu > AT_REST {
                (cpu, since) = (now, Instant::now());
            }
            if Instant::now() > end {
                bail!("it comes to no rest");
            }
        }
        self.measured(before, self.time)
    }

    fn measured(&self, before: Duration, time: Duration) -> Result<Measured> {
        let memory = self.process.memory()?;
        let mib = |kib: u64| kib as f64 / 1024.0;
        let cpu = (self.process.cpu()? - before).as_secs_f64();
        Ok(Measured { cpu, time: time.as_secs_f64(), anonymous: mib(memory.anonymous), peak: mib(memory.peak) })
    }

    /// Another weight of one route, in one step.
    fn edit(&mut self, staging: &Path, folder: &Path, layout: Layout, services: u32, weight: u32) -> Result<Measured> {
        let weights = format!("weight: {weight}}}");
        let changed = contents(layout, services).into_iter().rev().find(|(_, text)| text.contains("weight: 90}"));
        let (name, text) = changed.context("no route")?;
        let new = staging.join("new");
        let text = text.replacen("weight: 90}", &weights, 1).replacen("weight: 10}", &format!("weight: {}}}", 100 - weight), 1);
        fs::File::create(&new)?.write_all(text.as_bytes())?;
        let (before, begun) = (self.process.cpu()?, Instant::now());
        fs::rename(&new, folder.join(name))?;
        match self.hear(begun)? {
            1 => self.at_rest(before),
            number => bail!("{number} objects have changed, and not one"),
        }
    }
}

/// Numbers, one a line.
fn listen(out: ChildStdout, sender: &mpsc::Sender<(usize, Instant)>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let Ok(number) = line.trim().parse() else { continue };
        if sender.send((number, Instant::now())).is_err() {
            return;
        }
    }
}

/// Follows a folder as `mizzend` does, and says how many objects are there, and then how many are others than before.
pub(crate) fn read(args: ReadArgs) -> Result<()> {
    mizzen_net::keep_little_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = Options { last_good: args.last_good, ..Options::new(vec![args.folder]) };
    runtime.block_on(async {
        let mut files = Files::follow(options);
        let (mut merge, sources) = Merge::new(1);
        let source = *sources.first().context("no source")?;
        let mut complete = false;
        while let Some(event) = files.next().await {
            let mut next = Some(event);
            while let Some(event) = next {
                if let Event::Refused(refused) = &event {
                    bail!("refused: {:?}", refused.problems);
                }
                merge.take(source, event);
                next = files.try_next();
            }
            let changed = merge.changes().len();
            if changed > 0 || (merge.is_complete() && !complete) {
                println!("{changed}");
            }
            complete = merge.is_complete();
        }
        Ok(())
    })
}

impl Measured {
    fn median(all: &[Measured]) -> Measured {
        let of = |number: fn(&Measured) -> f64| median(all.iter().map(number).collect());
        Measured { cpu: of(|m| m.cpu), time: of(|m| m.time), anonymous: of(|m| m.anonymous), peak: of(|m| m.peak) }
    }
}

fn table(results: &[(Layout, Vec<Measured>)]) -> String {
    use std::fmt::Write;
    let mut out = "| a file has | read | CPU ms | ms | anonymous MiB | resident MiB at its peak |\n| --- | --- | --: | --: | --: | --: |\n"
        .to_owned();
    for (layout, measured) in results {
        for (row, one) in ROWS.iter().zip(measured) {
            let (title, row) = (layout.title(), row.title());
            let Measured { cpu, time, anonymous, peak } = one;
            let _ = writeln!(out, "| {title} | {row} | {:.1} | {:.0} | {anonymous:.1} | {peak:.1} |", cpu * 1e3, time * 1e3);
        }
    }
    out
}

fn as_json(results: &[(Layout, Vec<Measured>)], args: &FilesArgs) -> Value {
    let row = |(row, one): (&Row, &Measured)| json!({"read": row.title(), "cpu_s": one.cpu, "s": one.time, "anonymous_mib": one.anonymous, "peak_mib": one.peak});
    let layouts = results.iter().map(|(layout, measured)| {
        let rows: Vec<Value> = ROWS.iter().zip(measured).map(row).collect();
        json!({"a_file_has": layout.title(), "rows": rows})
    });
    json!({"objects": args.objects, "rounds": args.rounds, "idle_s": args.idle, "layouts": layouts.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_layouts_hold_the_same_objects() {
        let objects = |layout| {
            let text: String = contents(layout, 25).into_iter().map(|(_, text)| text).collect();
            let mut objects: Vec<String> = text.split("---\n").filter(|object| !object.is_empty()).map(str::to_owned).collect();
            objects.sort();
            objects
        };
        let all = objects(Layout::Object);
        assert_eq!((all.len(), contents(Layout::Object, 25).len()), (3 * 25 + 2 * 3, 81));
        assert_eq!(all, objects(Layout::Service));
        assert_eq!(all, objects(Layout::Namespace));
        assert_eq!((contents(Layout::Service, 25).len(), contents(Layout::Namespace, 25).len()), (28, 3));
    }
}
