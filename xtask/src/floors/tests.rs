//! A check that sees nothing would pass: what it sees in small crates, and what it says of them.

use std::fs;
use std::path::Path;

use super::graph::House;
use super::order::Order;
use super::report::{Report, report};

/// Reads a crate of these files, named `it`; the first is its root.
fn house(files: &[(&str, &str)]) -> House {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let file = directory.path().join(name);
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).expect("a folder");
        fs::write(file, text).expect("a file");
    }
    House::read("it", &directory.path().join(files[0].0), directory.path()).expect("it is read")
}

/// The arrows of a crate: `from -> to file:line`; the root is `it`.
fn arrows(files: &[(&str, &str)]) -> Vec<String> {
    let house = house(files);
    let shown = |edge: &super::graph::Edge| {
        format!("{} -> {} {}", house.shown(&edge.from), house.shown(&edge.to), edge.at)
    };
    let mut arrows: Vec<String> = house.edges.iter().map(shown).collect();
    arrows.sort();
    arrows
}

/// The report on a crate under this order.
fn judged(files: &[(&str, &str)], order: &str) -> Report {
    let order: Order = toml::from_str(&format!("[floors]\n{order}")).expect("an order");
    report(&house(files), &order)
}

const THING: (&str, &str) = ("b.rs", "pub struct Thing; pub fn make() {} pub trait At {}");

#[test]
fn a_use_is_an_arrow_and_a_mod_is_none() {
    let a = ("a.rs", "\nuse crate::b::Thing;");
    assert_eq!(arrows(&[("lib.rs", "mod a; mod b;"), a, THING]), ["it::a -> it::b a.rs:2"]);
}

#[test]
fn each_leaf_of_a_nested_use_is_an_arrow_with_its_line() {
    let a = ("a.rs", "use crate::{\n    b::{self, Thing},\n    c::{d::Deep, Shallow as S},\n};");
    let c = ("c.rs", "pub mod d; pub struct Shallow;");
    let d = ("c/d.rs", "pub struct Deep;");
    let found = arrows(&[("lib.rs", "mod a; mod b; mod c;"), a, THING, c, d]);
    assert_eq!(
        found,
        ["it::a -> it::b a.rs:2", "it::a -> it::c a.rs:3", "it::a -> it::c::d a.rs:3"]
    );
}

#[test]
fn paths_in_code_are_arrows() {
    let ways = [
        "fn f() { crate::b::make() }",
        "fn f() { super::b::make() }",
        "use crate::b; fn f() { b::make() }",
        "use crate::b as other; fn f() { other::make() }",
        "fn f(it: &dyn super::b::At) {}",
        "impl super::b::Thing {}",
        "struct Mine { field: Option<crate::b::Thing> }",
        "fn f() { use super::b; b::make() }",
        "fn f() { use super::b::make; make() }",
        "fn f() { println!(\"{}\", crate::b::make()) }",
        "fn f() { strange! { on crate::b::Thing => { go } } }",
        "#[derive(Args)] struct Mine { #[arg(value_parser = crate::b::make)] field: u8 }",
        "#[derive(Serialize)] struct Mine { #[serde(with = \"crate::b\")] field: u8 }",
        "fn f(it: u8) { match it { super::b::Thing => {} _ => {} } }",
        "mod inline { use super::super::b::Thing; }",
        "pub use crate::b::Thing;",
    ];
    for way in ways {
        let found = arrows(&[("lib.rs", "mod a; mod b;"), ("a.rs", way), THING]);
        assert_eq!(found, ["it::a -> it::b a.rs:1"], "{way}");
    }
}

#[test]
fn a_parent_that_calls_its_child_has_an_arrow_and_a_facade_has_none() {
    let b = ("a/b.rs", "pub struct Thing; pub fn make() {}");
    for facade in ["mod b; pub use b::Thing;", "mod b; pub(crate) use self::b::{Thing, make};"] {
        assert_eq!(arrows(&[("lib.rs", "mod a;"), ("a/mod.rs", facade), b]), [""; 0], "{facade}");
    }
    for user in [
        "mod b; fn f() { b::make() }",
        "mod b; fn f() { self::b::make() }",
        "mod b; use b::Thing;",
        "mod b; pub use b::Thing; fn f(it: Thing) {}",
    ] {
        let found = arrows(&[("lib.rs", "mod a;"), ("a/mod.rs", user), b]);
        assert_eq!(found, ["it::a -> it::a::b a/mod.rs:1"], "{user}");
    }
}

#[test]
fn an_arrow_leads_through_facades_to_what_defines_the_item() {
    let files = |user: &'static str| {
        [
            ("lib.rs", "mod user; mod a; pub use a::Renamed;"),
            ("user.rs", user),
            ("a/mod.rs", "mod b; mod c; pub use b::Thing as Renamed; pub use c::*;"),
            ("a/b.rs", "pub struct Thing;"),
            ("a/c.rs", "pub fn globbed() {}"),
        ]
    };
    for user in ["use crate::a::Renamed;", "use crate::Renamed;", "fn f(it: crate::a::Renamed) {}"]
    {
        assert_eq!(arrows(&files(user)), ["it::user -> it::a::b user.rs:1"], "{user}");
    }
    for user in ["use crate::a::globbed;", "use crate::a::*; fn f() { globbed() }"] {
        assert_eq!(arrows(&files(user)), ["it::user -> it::a::c user.rs:1"], "{user}");
    }
}

#[test]
fn a_private_use_of_the_parent_is_seen_through() {
    let a = ("a/mod.rs", "mod b; mod c; use b::Thing;");
    let c = ("a/c.rs", "use super::Thing;");
    let found = arrows(&[("lib.rs", "mod a;"), a, ("a/b.rs", "pub struct Thing;"), c]);
    assert_eq!(found, ["it::a -> it::a::b a/mod.rs:1", "it::a::c -> it::a::b a/c.rs:1"]);
}

#[test]
fn a_name_of_a_module_and_a_function_is_what_the_code_makes_of_it() {
    let files = |user| {
        let run = ("run.rs", "pub fn other() {}");
        [("lib.rs", "mod a; mod run; pub fn run() {}"), ("a.rs", user), run]
    };
    let found = arrows(&files("use crate::run; fn f() { run::other() }"));
    assert_eq!(found, ["it::a -> it::run a.rs:1"]);
    let found = arrows(&files("use crate::run; fn f() { run() }"));
    assert_eq!(found, ["it::a -> it a.rs:1"]);
}

#[test]
fn what_a_macro_defines_is_the_module_s() {
    let b = (
        "b.rs",
        "words! { pub enum Word { One } } macro_rules! other { () => {} } pub(crate) use other;",
    );
    for user in ["use crate::b::Word;", "fn f() { crate::b::other!() }", "use crate::b::Unseen;"] {
        let found = arrows(&[("lib.rs", "mod a; mod b;"), ("a.rs", user), b]);
        assert_eq!(found, ["it::a -> it::b a.rs:1"], "{user}");
    }
}

#[test]
fn tests_comments_variables_and_other_crates_are_no_arrows() {
    let unseen = [
        "#[cfg(test)] mod tests { use crate::b::Thing; }",
        "#[cfg(test)] use crate::b::Thing;",
        "#[cfg(all(test, unix))] fn f() { crate::b::make() }",
        "fn f() { #[cfg(test)] crate::b::make!(); }",
        "struct S { #[cfg(test)] field: crate::b::Thing }",
        "/// See [`crate::b::Thing`].\nfn f() {}",
        "use b_crate::b::Thing; use ::b::Thing; fn f() { std::mem::drop(1) }",
        "use crate::b::*; fn f(make: u8) -> u8 { make }",
        "use crate::b;",
        "pub(in crate::b) struct Mine;",
    ];
    let b = ("b.rs", "pub struct Thing; pub fn make() {}");
    for text in unseen {
        assert_eq!(arrows(&[("lib.rs", "mod a; mod b;"), ("a.rs", text), b]), [""; 0], "{text}");
    }
    let seen = "#[cfg(not(test))] use crate::b::Thing;";
    assert_eq!(arrows(&[("lib.rs", "mod a; mod b;"), ("a.rs", seen), b]).len(), 1);
}

#[test]
fn files_are_found_where_the_compiler_finds_them() {
    let files = [
        ("main.rs", "mod a; #[path = \"odd.rs\"] mod named;"),
        ("a.rs", "mod b; mod inline { mod c; }"),
        ("a/b/mod.rs", "use crate::named::It;"),
        ("a/inline/c.rs", "use super::super::b;\nfn f() { super::super::b::g() }"),
        ("odd.rs", "pub struct It;"),
    ];
    let expected =
        ["it::a::b -> it::named a/b/mod.rs:1", "it::a::inline::c -> it::a::b a/inline/c.rs:2"];
    assert_eq!(arrows(&files), expected);
}

#[test]
fn a_circle_of_files_is_told_with_a_line_for_each_arrow() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "\nuse crate::a::A; pub struct B;"),
    ];
    let report = judged(&files, "");
    assert_eq!(report.faults, 1);
    let expected = [
        "2 files in a circle: it::a, it::b",
        "  a circle of 2:",
        "    it::a -> it::b    a.rs:1",
        "    it::b -> it::a    b.rs:2",
    ];
    assert_eq!(report.lines, expected);
}

#[test]
fn of_many_circles_through_one_arrow_that_arrow_is_told_and_not_each_of_them() {
    let users: Vec<String> = (0..20).map(|n| format!("user{n}.rs")).collect();
    let root =
        format!("mod bottom; {}", (0..20).map(|n| format!("mod user{n};")).collect::<String>());
    let next: Vec<String> = (1..20).map(|n| format!("use crate::user{n}::U as U{n};")).collect();
    let top = format!("pub struct Top; use crate::bottom::B; {}", next.concat());
    let mut files = vec![("lib.rs", root.as_str()), ("user0.rs", top.as_str())];
    files.extend(users[1..].iter().map(|it| (it.as_str(), "pub struct U; use crate::bottom::B;")));
    files.push(("bottom.rs", "pub struct B;\nuse crate::user0::Top;"));
    let report = judged(&files, "");
    assert_eq!(report.faults, 1);
    assert!(report.lines.len() < 12, "{:#?}", report.lines);
    assert!(report.lines[0].ends_with("and 16 more"), "{}", report.lines[0]);
    assert_eq!(report.lines[1], "  20 of its 20 circles go through:");
    assert_eq!(report.lines[2], "    it::bottom -> it::user0    bottom.rs:2");
}

#[test]
fn a_circle_of_folders_is_told_though_no_file_is_in_one() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod one; pub mod two;"),
        ("a/one.rs", "use crate::b::one::B;"),
        ("a/two.rs", "pub struct A;"),
        ("b/mod.rs", "pub mod one; mod two;"),
        ("b/one.rs", "pub struct B;"),
        ("b/two.rs", "use crate::a::two::A;"),
    ];
    let report = judged(&files, "");
    assert_eq!(report.faults, 1);
    assert_eq!(report.lines[0], "rooms of it in a circle, each with all below it: a, b");
}

#[test]
fn an_arrow_that_climbs_is_a_fault_and_one_that_descends_is_none() {
    let files = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::Thing;"), THING];
    assert_eq!(judged(&files, "it = ['a', 'b']").faults, 0);
    let climbing = judged(&files, "it = ['b', 'a']");
    let expected = ["it: a uses b, which is above it", "    it::a -> it::b    a.rs:1"];
    assert_eq!((climbing.faults, climbing.lines), (1, expected.map(str::to_owned).into()));
}

#[test]
fn what_the_root_defines_is_above_all_rooms() {
    let files = [("lib.rs", "mod a; pub struct Root;"), ("a.rs", "use crate::Root;")];
    assert_eq!(judged(&files, "").faults, 0);
    assert_eq!(
        judged(&files, "it = ['a']").lines[0],
        "it: a uses what it itself defines, above it"
    );
}

#[test]
fn a_room_without_a_floor_and_a_floor_without_a_room_are_faults() {
    let report = judged(&[("lib.rs", "mod a;"), ("a.rs", "")], "it = ['gone']");
    let expected = [
        "floors.toml has no floor for it::a",
        "floors.toml has a floor for it::gone, which is no module",
    ];
    assert_eq!((report.faults, report.lines), (2, expected.map(str::to_owned).into()));
}

#[test]
fn rooms_in_a_module_have_an_order_of_their_own() {
    let files = [
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod b; mod c;"),
        ("a/b.rs", "use super::c::C;"),
        ("a/c.rs", "pub struct C;"),
    ];
    assert_eq!(judged(&files, "'it::a' = ['b', 'c']").faults, 0);
    assert_eq!(judged(&files, "'it::a' = ['c', 'b']").faults, 1);
}

#[test]
fn an_order_for_no_crate_is_a_fault() {
    let order: Order = toml::from_str("[floors]\n'gone::a' = []").expect("an order");
    assert!(order.check_names(&["it"]).is_err());
    assert!(order.check_names(&["gone"]).is_ok());
}

#[test]
fn a_diagram_leaves_out_arrows_that_longer_ways_imply() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod alone;"),
        ("a.rs", "use crate::b::B; use crate::c::C;"),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "pub struct C;"),
        ("alone.rs", ""),
    ];
    let order: Order = toml::from_str("[floors]\nit = ['a', 'b', 'c', 'alone']").expect("an order");
    let expected = "```mermaid\nflowchart TD\n    a --> b\n    b --> c\n    alone\n```";
    assert_eq!(house(&files).mermaid("", &order).as_deref(), Some(expected));
    assert_eq!(house(&files).mermaid("a", &order), None);
}
