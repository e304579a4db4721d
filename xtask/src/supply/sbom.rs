//! The bill of materials of the programs, CycloneDX 1.5 as JSON: each crate with version, licence and the checksum of
//! Cargo.lock. Made from `cargo metadata`, so that packaging needs no further tool. It must say the same for the same
//! Cargo.lock: no time, no random number.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{process, workspace};

/// What the package installs.
const PROGRAMS: [&str; 4] = ["job-broker", "job-shim", "jobctl", "job-certs"];

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The document, as text.
///
/// # Errors
/// cargo, or a Cargo.lock that cannot be read.
pub(crate) fn document() -> Result<String> {
    let mut metadata = workspace::cargo();
    metadata.args(["metadata", "--format-version=1", "--locked"]);
    metadata.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Value = serde_json::from_str(&process::output(&mut metadata)?)?;
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock"))?;
    let lock: Lock = toml::from_str(&lock).context("Cargo.lock")?;
    let checksum = |package: Locked| Some(((package.name, package.version), package.checksum?));
    let checksums = lock.package.into_iter().filter_map(checksum).collect();
    let document = describe(&metadata, &checksums)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

type Checksums = BTreeMap<(String, String), String>;

fn describe(metadata: &Value, checksums: &Checksums) -> Result<Value> {
    let packages = by_id(&metadata["packages"], "id");
    let nodes = by_id(&metadata["resolve"]["nodes"], "id");
    let is_program = |id: &&str| PROGRAMS.contains(&text(packages[*id], "name"));
    let mut waiting: Vec<&str> = packages.keys().copied().filter(is_program).collect();
    let mut linked = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if linked.insert(id) {
            waiting.extend(dependencies(nodes.get(id).context("a crate that is not resolved")?));
        }
    }
    let components: Vec<Value> =
        linked.iter().map(|id| component(packages[id], checksums)).collect();
    let graph = linked.iter().map(|id| {
        let on: BTreeSet<_> = dependencies(nodes[id]).map(|id| purl(packages[id])).collect();
        json!({ "ref": purl(packages[id]), "dependsOn": on })
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": "job-broker", "bom-ref": "package" } },
        "components": components,
        "dependencies": graph.collect::<Vec<_>>(),
    }))
}

fn by_id<'a>(list: &'a Value, key: &str) -> BTreeMap<&'a str, &'a Value> {
    list.as_array().into_iter().flatten().map(|one| (text(one, key), one)).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Those that are not for tests or the build alone.
fn dependencies(node: &Value) -> impl Iterator<Item = &str> {
    let all = node["deps"].as_array().into_iter().flatten();
    let is_normal = |dep: &&Value| {
        dep["dep_kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    all.filter(is_normal).map(|dep| text(dep, "pkg"))
}

fn component(package: &Value, checksums: &Checksums) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let kind = if PROGRAMS.contains(&name) { "application" } else { "library" };
    let mut component = json!({
        "type": kind, "bom-ref": purl(package), "name": name, "version": version, "purl": purl(package),
    });
    if let Some(license) = package["license"].as_str() {
        // Older crates write a slash.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&(name.into(), version.into())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

fn purl(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_of_materials_names_each_linked_crate_with_version_licence_and_checksum() {
        let text = document().unwrap();
        assert_eq!(text, document().unwrap(), "the same for the same Cargo.lock");
        let document: Value = serde_json::from_str(&text).unwrap();
        let components = document["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|one| one["name"] == name);
        for program in PROGRAMS {
            assert_eq!(find(program).unwrap()["type"], "application", "{program}");
        }
        let rustls = find("rustls").unwrap();
        assert!(rustls["licenses"][0]["expression"].as_str().unwrap().contains("MIT"), "{rustls}");
        assert_eq!(rustls["hashes"][0]["content"].as_str().unwrap().len(), 64, "{rustls}");
        assert!(find("insta").is_none(), "a crate of the tests");
        let graph = document["dependencies"].as_array().unwrap();
        assert_eq!(graph.len(), components.len());
        let refs: BTreeSet<_> =
            components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(refs.len(), components.len(), "each once");
        let on = graph.iter().flat_map(|one| one["dependsOn"].as_array().unwrap());
        assert!(on.into_iter().all(|one| refs.contains(one.as_str().unwrap())));
    }
}
