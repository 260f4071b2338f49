//! The command `spmd`.
fn main() -> std::process::ExitCode {
    spmd::run(|world| {
        let sum = world.allreduce(&[world.rank()], spmd::Sum)?[0];
        println!("{} {sum}", world.rank());
        Ok(())
    })
}
