-- Stands before the scripts that answer with a page.

-- How many of the bodies fit into one answer; one does always.
local function fitting(found, count, most_bytes)
    local bytes = 0
    for i = 1, count do
        bytes = bytes + (found[i] and #found[i] or 0)
        if bytes > most_bytes and i > 1 then return i - 1 end
    end
    return count
end
