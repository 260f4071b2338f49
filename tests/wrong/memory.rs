//! Windows and node arrays.

use spmd::{
    Comm, Failure, bytemuck,
    op::{Number, Sum},
    rma::{Lock, NodeArray, Window},
};

use super::{
    Access, Kind, Open, Reach,
    judge::Got,
    value::{BEFORE, Element, Stamp, Ty, bytes, elements},
};

/// An element that wants more alignment than allocators give.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(128))]
pub(super) struct Wide([u64; 16]);

pub(super) enum Memory {
    Bytes(Window<u8>),
    Words(Window<u64>),
    Array(NodeArray<u64>),
    Wide(NodeArray<Wide>),
    WideWindow(Window<Wide>),
}

pub(super) fn open(opened: Open, comm: &Comm) -> Result<Memory, Failure> {
    let length = opened.length;
    Ok(match opened.kind {
        Kind::Bytes => Memory::Bytes(comm.window(length)?),
        Kind::Words => Memory::Words(comm.window(length)?),
        Kind::Array => Memory::Array(comm.node_array(length)?),
        Kind::Wide => Memory::Wide(comm.node_array(length)?),
        Kind::WideWindow => Memory::WideWindow(comm.window(length)?),
    })
}

impl Memory {
    pub(super) fn close(self) -> Result<(), Failure> {
        match self {
            Self::Bytes(window) => window.close()?,
            Self::Words(window) => window.close()?,
            Self::WideWindow(window) => window.close()?,
            Self::Array(array) => array.close()?,
            Self::Wide(array) => array.close()?,
        }
        Ok(())
    }

    pub(super) fn reach(
        &mut self,
        reach: Reach,
        place: (usize, usize),
        stamp: Stamp,
    ) -> Result<Got, Failure> {
        match self {
            Self::Bytes(window) => reach_window(window, Ty::Byte, reach, place, stamp),
            Self::Words(window) => reach_window(window, Ty::Word, reach, place, stamp),
            Self::Array(array) => {
                let mine: Vec<u64> = stamp.values(Ty::Word, reach.length);
                array
                    .write(|part| part.iter_mut().zip(&mine).for_each(|(own, &new)| *own = new))?;
                let all = array.read(|all, _| all.to_vec())?;
                Ok(Got::Loose(bytes(&all)))
            }
            Self::Wide(array) => {
                array.write(|part| part.fill(Wide([1; 16])))?;
                let right = array.read(|all, _| all.iter().all(|wide| wide.0[15] <= 1))?;
                assert!(right, "nobody writes anything else");
                Ok(Got::Nothing)
            }
            Self::WideWindow(window) => {
                window.local_mut().fill(Wide([1; 16]));
                window.epoch(|_| Ok(()))?;
                Ok(Got::Nothing)
            }
        }
    }
}

fn reach_window<T: Element + spmd::rma::Plain + Number>(
    window: &mut Window<T>,
    ty: Ty,
    reach: Reach,
    (rank, size): (usize, usize),
    stamp: Stamp,
) -> Result<Got, Failure> {
    let Reach { how, offset, length, .. } = reach;
    let steps = if reach.steps < 4 { reach.steps % size } else { reach.steps };
    let target = if steps < size { (rank + steps) % size } else { steps };
    let before = (rank + size - steps % size) % size;
    let mine: Vec<T> = stamp.values(ty, length);
    match how {
        Access::Put => {
            window.epoch(|epoch| epoch.put(target, offset, &mine))?;
            let got = window.local().get(offset..offset.saturating_add(length)).map(bytes);
            Ok(if ty == Ty::Word {
                Got::Rows(vec![(before, got.unwrap_or_default())])
            } else {
                Got::Nothing
            })
        }
        Access::Accumulate => {
            let got = window.epoch(|epoch| {
                epoch.accumulate(target, offset, &mine, Sum)?;
                epoch.get(target, offset..offset.wrapping_add(length))
            })?;
            Ok(Got::Loose(bytes(&got)))
        }
        Access::Lock => {
            let got = window.passive(|phase| {
                phase.lock(target, Lock::Exclusive, |part| {
                    part.put(offset, &mine)?;
                    part.get(offset..offset.wrapping_add(length))
                })
            })?;
            Ok(Got::Loose(bytes(&got)))
        }
        Access::Local => {
            let part = window.local_mut();
            part.iter_mut()
                .zip(elements(&vec![BEFORE; size_of_val(&mine[..])]))
                .for_each(|(own, new)| *own = new);
            Ok(Got::Loose(bytes(window.local())))
        }
        Access::Panics => {
            window.epoch(|_| -> spmd::Result<()> { panic!("the body of the epoch panics") })?;
            Ok(Got::Nothing)
        }
        Access::Fails => {
            window.epoch(|epoch| epoch.put(size, 0, &mine))?;
            Ok(Got::Nothing)
        }
    }
}
