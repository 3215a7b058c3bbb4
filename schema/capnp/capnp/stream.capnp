@0x86c366a91393f3f8;
# What `-> stream` in an interface means: the answer carries nothing, and the sender may go on before it has come.
# A standard import of Cap'n Proto that some packages of its tool leave out.

struct StreamResult @0x995f9a3377c0b16e {
}
