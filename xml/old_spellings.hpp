// The spellings discussed on libvirt's list in 2012, before <backingStore>:
//   S1 <backingFile/>                                            ends the chain
//   S2 <backingFile><source file= format=/></backingFile>        one layer
//   S3 <backingFile> with several <source file= format=/>        nearest first, complete
//   S4 <backingFile><driver type=/><source/>[<backingFile>…]     nested
//   S5 <backing file= format=/>, repeated                        nearest first, complete
//   S6 <mirror><driver type=/><source/>[<backingFile>…]          S7 <mirror><source file= format=/>[<backing/>…]
// A layer without a format is unrecorded. Without a `type` the attributes tell it: file unless dev, dir or protocol.
#pragma once

#include "xml/disk_reader.hpp"

namespace weir::xml {

/// True if `element` (a disk or mirror) holds a backingFile or backing.
bool has_old_chain(pugi::xml_node element);
/// Appends the layers below `head`.
void read_old_chain(pugi::xml_node head, read_chain& chain, problem_log& log);
/// True for a mirror spelled as S6 or S7.
bool is_old_mirror(pugi::xml_node mirror);
/// The mirror's own layer (S6, S7).
void read_old_mirror_head(pugi::xml_node mirror, read_chain& chain, problem_log& log);

}  // namespace weir::xml
