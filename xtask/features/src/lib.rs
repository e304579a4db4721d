//! No code. Cargo builds a crate once for each set of features that a selection of packages asks for; with this package in
//! every selection, the programs, xtask and the tests share what they depend on. Releases are built without it.
