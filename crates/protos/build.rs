//! Compiles the few messages of Istio's own, and makes two extracts of all messages: their descriptors, compressed, and a small table of
//! which fields are maps. No `protoc` is needed, and no copy of Envoy's files: they ship inside the crate of its types.

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

const OWN: [&str; 5] = ["ca.proto", "index.proto", "nds.proto", "typed_struct.proto", "alpn.proto"];
/// The folders of the types' crate in which imports are resolved.
const ROOTS: [&str; 7] =
    ["cel-spec/proto", "client_model", "data-plane-api", "googleapis", "opentelemetry-proto", "protoc-gen-validate", "xds"];
const ANY: &str = "google.protobuf.Any";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let own = protox::compile(OWN, ["proto"])?;
    // One set of well-known types for everything: the one of Envoy's crate.
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .compile_fds(own.clone())?;

    let (version, dir) = envoy_types()?;
    println!("cargo::rustc-env=ENVOY_TYPES_VERSION={version}");
    println!("cargo::rerun-if-changed={}", dir.join("Cargo.toml").display());
    let mut pool = compile(&dir.join("proto"), &out.join("patched"))?;
    pool.add_file_descriptor_set(own)?;
    let bytes = pool.encode_to_vec();
    fs::write(out.join("maps.rs"), table(&pool)?)?;
    fs::write(out.join("sensitive.rs"), sensitive(&pool)?)?;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&bytes)?;
    fs::write(out.join("descriptors.gz"), packed.finish()?)?;
    Ok(())
}

/// The version and the folder of the crate that has Envoy's types. Cargo's own answer needs every package of the workspace on disk, which is
/// not so in a first build; then the registry's folder is looked at.
fn envoy_types() -> Result<(String, PathBuf), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.args(["metadata", "--format-version=1", "--offline", "--filter-platform", &env::var("TARGET")?, "--manifest-path"]);
    if let Ok(answer) = cargo.arg(manifest.join("Cargo.toml")).output()
        && answer.status.success()
    {
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
        let package = answer["packages"].as_array().into_iter().flatten().find(|p| p["name"] == "envoy-types");
        if let Some((version, path)) = package.and_then(|p| Some((p["version"].as_str()?, p["manifest_path"].as_str()?))) {
            return Ok((version.to_owned(), Path::new(path).parent().ok_or("a manifest without a folder")?.to_owned()));
        }
    }
    let version = locked_version(&manifest)?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let registry = home.ok_or("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    for index in fs::read_dir(&registry)? {
        let dir = index?.path().join(format!("envoy-types-{version}"));
        if dir.is_dir() {
            return Ok((version, dir));
        }
    }
    Err(format!("envoy-types {version} is not in {}", registry.display()).into())
}

fn locked_version(manifest: &Path) -> Result<String, Box<dyn Error>> {
    let lock = manifest.ancestors().map(|dir| dir.join("Cargo.lock")).find(|file| file.is_file()).ok_or("no Cargo.lock")?;
    let lock = fs::read_to_string(lock)?;
    let after = lock.split("name = \"envoy-types\"\nversion = \"").nth(1).ok_or("envoy-types is not in Cargo.lock")?;
    Ok(after.split('"').next().unwrap_or_default().to_owned())
}

/// Compiles all of the crate's files. Beside unrelated packages the compiler takes a relative name like `config.core.v3.X` for one of
/// `envoy.extensions.config.core…`, so a file that fails among others is compiled again alone; where that fails too, with the name made absolute.
fn compile(dir: &Path, patched: &Path) -> Result<DescriptorPool, Box<dyn Error>> {
    let roots: Vec<PathBuf> = ROOTS.iter().map(|root| dir.join(root)).collect();
    let mut names = Vec::new();
    for root in &roots {
        walk(root, root, &mut names)?;
    }
    names.sort();
    let mut compiler = protox::Compiler::new(&roots)?;
    compiler.include_imports(true);
    let failed: Vec<String> = names.into_iter().filter(|name| compiler.open_file(name).is_err()).collect();
    let mut pool = DescriptorPool::new();
    // Encoded, since the plain structs lose the annotations.
    pool.decode_file_descriptor_set(compiler.encode_file_descriptor_set().as_slice())?;
    for name in failed {
        if pool.get_file_by_name(&name).is_some() {
            continue;
        }
        let set = alone(&roots, &name).or_else(|_| {
            let file = roots.iter().map(|root| root.join(&name)).find(|file| file.is_file()).ok_or("a file that was just listed")?;
            let copy = patched.join(&name);
            fs::create_dir_all(copy.parent().ok_or("a file without a folder")?)?;
            fs::write(&copy, fs::read_to_string(file)?.replace(" common.", " .envoy.extensions.common."))?;
            let mut roots = roots.clone();
            roots.insert(0, patched.to_owned());
            alone(&roots, &name)
        })?;
        pool.decode_file_descriptor_set(set.as_slice())?;
    }
    Ok(pool)
}

fn alone(roots: &[PathBuf], name: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(roots)?;
    compiler.include_imports(true).open_file(name)?;
    Ok(compiler.encode_file_descriptor_set())
}

fn walk(root: &Path, dir: &Path, names: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, names)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            names.push(path.strip_prefix(root)?.to_str().ok_or("a file name that is not UTF-8")?.replace('\\', "/"));
        }
    }
    Ok(())
}

/// The messages that hold a map, somewhere below, with those of their fields that lead there: `(name, [(field, is a map, message)])`. The
/// message of a map is its entry. Sorted by name.
fn table(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut names: BTreeSet<String> =
        pool.all_messages().filter(|m| is_any(m) || m.fields().any(|f| f.is_map())).map(|m| m.full_name().to_owned()).collect();
    loop {
        let more: Vec<String> = pool
            .all_messages()
            .filter(|m| !names.contains(m.full_name()))
            .filter(|m| m.fields().any(|f| matches!(f.kind(), Kind::Message(c) if names.contains(c.full_name()))))
            .map(|m| m.full_name().to_owned())
            .collect();
        if more.is_empty() {
            break;
        }
        names.extend(more);
    }
    let all: Vec<&String> = names.iter().collect();
    let any = all.iter().position(|name| *name == ANY).ok_or("no `Any`")?;
    let mut text = format!("/// The place of `{ANY}`.\nconst ANY: u16 = {any};\nstatic MESSAGES: &[(&str, Fields)] = &[\n");
    for name in &all {
        let message = pool.get_message_by_name(name).ok_or("a message that was just listed")?;
        write!(text, "({name:?}, &[")?;
        for field in message.fields() {
            let Kind::Message(child) = field.kind() else { continue };
            match all.binary_search_by(|n| n.as_str().cmp(child.full_name())) {
                Ok(at) => write!(text, "({},{},{at}),", field.number(), field.is_map())?,
                Err(_) if field.is_map() => write!(text, "({},true,u16::MAX),", field.number())?,
                Err(_) => {}
            }
        }
        text.push_str("]),\n");
    }
    text.push_str("];\n");
    Ok(text)
}

/// The full names of the fields that hold secrets, sorted.
fn sensitive(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mark = pool.get_extension_by_name("udpa.annotations.sensitive").ok_or("no annotation of secrets")?;
    let fields = pool.all_messages().flat_map(|m| m.fields().collect::<Vec<_>>());
    let marked: BTreeSet<String> =
        fields.filter(|f| f.options().get_extension(&mark).as_bool() == Some(true)).map(|f| f.full_name().to_owned()).collect();
    Ok(format!("static SENSITIVE: &[&str] = &{marked:?};\n").replace('{', "[").replace('}', "]"))
}

fn is_any(message: &MessageDescriptor) -> bool {
    message.full_name() == ANY
}
