//! The example of the documentation runs.

#[path = "../examples/embed.rs"]
mod embed;

#[test]
fn the_ledger_of_the_example_runs() {
    std::env::set_current_dir(env!("CARGO_TARGET_TMPDIR")).expect("the directory exists");
    embed::main().expect("the example runs");
}

#[test]
fn the_example_fits_on_a_page_or_two() {
    let lines = include_str!("../examples/embed.rs").lines().count();
    assert!(lines < 100, "{lines} lines: it promises fewer than a hundred");
}
