fn sum(comm: &spmd::Comm) -> spmd::Result<Vec<usize>> {
    comm.allreduce(&[comm.rank()], spmd::op::Sum)
}

fn main() {
    let _ = spmd::local(2, |world| {
        let shared = world.shared()?;
        sum(&shared)?;
        Ok(())
    });
}
