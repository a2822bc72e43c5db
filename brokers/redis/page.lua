-- Included in the scripts that return a page.

-- Returns how many of the bodies fit into one answer, at least one.
local function fitting(page_bodies, count, max_bytes)
    local bytes = 0
    for i = 1, count do
        bytes = bytes + (page_bodies[i] and #page_bodies[i] or 0)
        if bytes > max_bytes and i > 1 then return i - 1 end
    end
    return count
end
