//! `mizzen analyze`: what is wrong with a configuration, in istioctl's words.

mod analyzers;
pub(super) mod diff;
mod edit;
mod explain;
pub(crate) mod files;
mod fix;
pub(super) mod input;
mod print;
mod sarif;
mod select;
mod together;
mod wait;

use std::{
    collections::BTreeSet,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mizzen_analyze::{Id, Level, Message};

use self::{
    files::{File, gather},
    input::Input,
    print::{Look, Texts},
    select::{Overviews, Selection, Suppression, told},
};
use super::{output, place::Where};

/// How many columns a terminal has that does not say it.
const WIDTH: usize = 80;
/// The exit code of a command line that is not understood.
pub(crate) const USAGE: u8 = 64;
/// The exit code if a file holds what is no object.
const DATA: u8 = 65;
/// The exit code if there are messages of the level that counts.
const FOUND: u8 = 79;

/// Arguments of `analyze`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 if all is well, 79 if there are messages of the failure threshold's level (whatever the form of the output), 65 if a \
file holds what is no object, 64 if the command line is not understood, 1 if something else failed.\n\nExamples:\n  \
mizzen analyze                                    the running mesh of this host\n  \
mizzen analyze new.yaml                           what the running mesh would be with this file, or the file alone if none runs\n  \
mizzen analyze --use-kube=false -R config/        files alone, with all folders below\n  \
mizzen analyze -S \"IST0103=Pod *.shop\" config/    without a message of these objects"
)]
pub(crate) struct AnalyzeArgs {
    /// Files of YAML or JSON, folders, or `-` for standard input. With a running mesh they are laid over what it has.
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// Only what is told of this namespace's objects and of those without one; it is also that of objects in files that name none. Without it: all
    /// namespaces, and `default` for objects that name none.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// All namespaces, whatever `--namespace` says.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Whether the running mesh of this host is looked at; `--use-kube=false` looks at files alone.
    #[arg(short = 'k', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_kube: Option<bool>,
    /// Folders with all that are below them.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// What is not told: a message's code and an object, as CODE=KIND NAME.NAMESPACE, with `*` for anything ("IST0103=Pod *.shop"). May be repeated. The
    /// annotation galley.istio.io/analyze-suppress of an object says the same of it.
    #[arg(short = 'S', long, value_name = "CODE=OBJECT")]
    suppress: Vec<String>,
    /// From which level on messages make the exit code 79.
    #[arg(long, value_name = "LEVEL", default_value = "Error", value_parser = level)]
    failure_threshold: Level,
    /// From which level on messages are told.
    #[arg(long, value_name = "LEVEL", default_value = "Info", value_parser = level)]
    output_threshold: Level,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t, ignore_case = true)]
    output: Form,
    /// A file that holds the mesh's settings (MeshConfig) and nothing else; they are in force before all others.
    #[arg(long = "meshConfigFile", value_name = "FILE")]
    mesh_config_file: Option<PathBuf>,
    /// Only what this analyzer says, or this code. May be repeated.
    #[arg(long, value_name = "NAME")]
    analyzer: Vec<String>,
    /// Name all analyzers, and do nothing else.
    #[arg(short = 'L', long)]
    list_analyzers: bool,
    /// Say what a code means, and do nothing else.
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
    /// How long it may take, as 30s or 1m30s.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = wait::duration)]
    timeout: Duration,
    /// Pass over documents that are no objects.
    #[arg(long)]
    ignore_unknown: bool,
    /// Whether there are colours; without it, on a terminal.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    color: Option<bool>,
    /// Overviews too, and what was looked at.
    #[arg(short, long)]
    verbose: bool,
    /// Print what would mend the files, where there is only one way, as a unified diff.
    #[arg(long)]
    fix: bool,
    /// With `--fix`: change the files, and tell what remains.
    #[arg(long, requires = "fix")]
    write: bool,
}

/// The form of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A line for each, for people.
    #[default]
    Log,
    /// A list in JSON.
    Json,
    /// The same in YAML.
    Yaml,
    /// SARIF 2.1.0, for code hosts.
    Sarif,
}

fn level(text: &str) -> Result<Level, String> {
    Level::named(text).ok_or_else(|| format!("`{text}` is no level: they are Info, Warning and Error"))
}

/// What was looked at, and what is to be said of it.
struct Looked {
    /// In the order in which they are told.
    messages: Vec<Message>,
    unparsed: BTreeSet<(Arc<str>, Id)>,
    objects: Option<usize>,
    /// None if the control plane was asked.
    input: Option<Input>,
    texts: Texts,
    target: String,
}

/// Runs it.
///
/// # Errors
/// If it cannot be done at all.
pub(crate) fn run(place: &Where, args: AnalyzeArgs) -> Result<ExitCode> {
    if let Some(code) = &args.explain {
        output::print(&explain::page(code).map_err(anyhow::Error::msg)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.list_analyzers {
        output::print(&analyzers::list())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.fix && args.paths.is_empty() {
        bail!("--fix mends files: name them");
    }
    let selection = selection(&args)?;
    let (given, name, wanted) = (args.clone(), place.clone(), selection.clone());
    let mut looked = wait::within(args.timeout, "analyzing", move || look(&name, &given, &wanted))?;
    if args.fix {
        mend(&args, &selection, &mut looked)?;
    }
    if !args.fix || args.write {
        tell(&args, &looked)?;
    }
    Ok(ExitCode::from(code(&args, &looked)))
}

fn selection(args: &AnalyzeArgs) -> Result<Selection> {
    let mut suppressions = Vec::new();
    for text in &args.suppress {
        let suppression = Suppression::parse(text).map_err(anyhow::Error::msg).context("--suppress")?;
        if suppression.is_unknown() {
            say(&format!("Warning: --suppress: there is no code `{}`, so that it hides nothing", suppression.code));
        }
        suppressions.push(suppression);
    }
    let mut codes = Vec::new();
    for name in &args.analyzer {
        codes.extend(analyzers::codes(name).map_err(anyhow::Error::msg).context("--analyzer")?);
    }
    let namespace = args.namespace.clone().filter(|_| !args.all_namespaces);
    Ok(Selection { namespace, suppressions, codes: (!args.analyzer.is_empty()).then_some(codes) })
}

/// Gathers what is asked about, and analyzes it.
fn look(place: &Where, args: &AnalyzeArgs, selection: &Selection) -> Result<Looked> {
    let gathered = gather(&args.paths, args.recursive)?;
    for path in &gathered.skipped {
        say(&format!("{} is left out: files of configuration end in .json, .yaml or .yml", path.display()));
    }
    if gathered.files.is_empty() && !args.paths.is_empty() {
        bail!("{}: there is no file that ends in .json, .yaml or .yml", shown(&args.paths));
    }
    let running = if args.use_kube == Some(false) { None } else { super::runtime(place.running())? };
    if running.is_none() && (args.use_kube == Some(true) || place.mesh.is_some() || args.paths.is_empty()) {
        bail!("no mesh is running here as this user: name files or folders to analyze them, or start a mesh with `mizzen up DIR`");
    }
    let target = target(args, &gathered.files);
    if args.paths.is_empty()
        && args.mesh_config_file.is_none()
        && let Some(mesh) = &running
        && let Some(messages) = super::runtime(mesh.debug_if_known("/debug/analyze"))?
    {
        let messages: Vec<Message> = serde_json::from_value(messages).context("what the control plane says is not understood")?;
        let texts = texts_of(&messages);
        return Ok(Looked { messages: selection.apply(messages), unparsed: BTreeSet::new(), objects: None, input: None, texts, target });
    }
    let mut input = Input {
        files: gathered.files,
        namespace: args.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        ignore_unknown: args.ignore_unknown,
        is_installed: running.is_none(),
        now: Some(time::OffsetDateTime::now_utc().unix_timestamp()),
        ..Input::default()
    };
    if let Some(path) = &args.mesh_config_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("--meshConfigFile {}: cannot be read", path.display()))?;
        input.settings = Some(File { name: path.to_string_lossy().into(), path: None, text });
    }
    if let Some(mesh) = &running {
        // Nobody has said that the cluster is meant: files are analyzed without it.
        input.lay_over(mesh, args.use_kube.is_none() && !place.is_explicit())?;
    }
    Ok(Looked::of(input, selection, target))
}

impl Looked {
    fn of(input: Input, selection: &Selection, target: String) -> Looked {
        let found = input.look();
        let texts = input.texts();
        let messages = selection.apply(found.messages);
        Looked { messages, unparsed: found.unparsed, objects: Some(found.objects), input: Some(input), texts, target }
    }
}

/// The files of which a control plane speaks, as far as they can be read here.
fn texts_of(messages: &[Message]) -> Texts {
    let names: BTreeSet<&Arc<str>> = messages.iter().map(|message| &message.pos.file).collect();
    names.into_iter().filter_map(|name| Some((name.clone(), std::fs::read_to_string(&**name).ok()?))).collect()
}

/// What is analyzed, for people.
fn target(args: &AnalyzeArgs, files: &[File]) -> String {
    match &args.namespace {
        Some(namespace) if !args.all_namespaces => format!("namespace: {namespace}"),
        _ if files.is_empty() => "all namespaces".to_owned(),
        _ => shown(&args.paths),
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Prints the messages, and what is to be said of all of them.
fn tell(args: &AnalyzeArgs, looked: &Looked) -> Result<()> {
    if args.verbose {
        let objects = match looked.objects {
            Some(1) => "one object of ".to_owned(),
            Some(count) => format!("{count} objects of "),
            None => String::new(),
        };
        let below =
            if looked.input.as_ref().is_some_and(|input| !input.below.is_empty()) { ", over what the running mesh has" } else { "" };
        say(&format!("Analyzed {objects}{}{below}.", looked.target));
    }
    let overviews = match (args.verbose, args.output) {
        (true, _) => Overviews::Always,
        (false, Form::Log) => Overviews::AloneOnly,
        (false, _) => Overviews::Never,
    };
    let messages = told(&looked.messages, args.output_threshold, overviews);
    let text = match args.output {
        Form::Log => print::lines(&messages, look_of_terminal(args), &looked.texts),
        Form::Json => serde_json::to_string_pretty(&print::value(&messages))? + "\n",
        Form::Yaml => serde_saphyr::to_string(&print::value(&messages))?,
        Form::Sarif => serde_json::to_string_pretty(&sarif::report(&messages))? + "\n",
    };
    output::print_as_is(&text)?;
    if messages.iter().all(|message| message.code.is_overview) {
        say(&format!("✔ No validation issues found when analyzing {}.", looked.target));
    }
    match code(args, looked) {
        FOUND => {
            say(&format!("Error: Analyzers found issues when analyzing {}.", looked.target));
            say("See `mizzen analyze --explain CODE` for what a code means and what to do.");
        }
        DATA => say("Error: some documents are no objects (--ignore-unknown passes over them)."),
        _ => {}
    }
    Ok(())
}

fn look_of_terminal(args: &AnalyzeArgs) -> Look {
    let is_terminal = std::io::stdout().is_terminal();
    let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term.eq_ignore_ascii_case("dumb"));
    // A terminal that does not say how wide it is may be a recorder's.
    let width = is_terminal.then(|| terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0)));
    Look { colour: args.color.unwrap_or(is_terminal && !wants_none && !is_dumb), width }
}

/// 79 and 65 as istioctl has them; what is not told counts too, if it is of a level that matters.
fn code(args: &AnalyzeArgs, looked: &Looked) -> u8 {
    let is_no_object = |message: &Message| looked.unparsed.contains(&(message.pos.file.clone(), message.id.clone()));
    let counts = |message: &&Message| !message.code.is_overview && message.code.level >= args.failure_threshold;
    if looked.messages.iter().filter(counts).any(|message| !is_no_object(message)) {
        FOUND
    } else if looked.unparsed.is_empty() {
        0
    } else {
        DATA
    }
}

/// Prints the changes, or makes them and looks again.
fn mend(args: &AnalyzeArgs, selection: &Selection, looked: &mut Looked) -> Result<()> {
    let Some(input) = &mut looked.input else { return Ok(()) };
    let wanted: Vec<&Message> = told(&looked.messages, args.output_threshold, Overviews::Always);
    let plan = fix::plan(&input.files, &input.namespace, &wanted);
    for (message, why) in &plan.left {
        say(&format!("left: {} {} {}: {why}", message.pos, message.id, message.code.id));
    }
    if !args.write {
        output::print_as_is(&plan.diff())?;
        say(&plan.summary("would mend what is found", "--fix --write makes them"));
        return Ok(());
    }
    plan.write()?;
    say(&plan.summary("made", ""));
    for (file, text) in plan.texts() {
        if let Some(found) = input.files.iter_mut().find(|known| known.name == *file) {
            found.text = text;
        }
    }
    *looked = Looked::of(input.clone(), selection, looked.target.clone());
    Ok(())
}

/// One line on standard error.
fn say(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}
